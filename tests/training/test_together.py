"""Two processes that train together, as two threads of one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.training.conftest import DrawnPairs
from tests.training.test_going_on import Broken, names, stop_at
from tests.training.test_loop import Spoilt, drawn_validation
from xyscannet.errors import ConfigError
from xyscannet.training.config import TrainConfig
from xyscannet.training.loop import Trainer
from xyscannet.training.processes import Processes
from xyscannet.training.recipes import parse_config
from xyscannet.training.state import find_state, save_state


class Together(Processes):
    """One of two processes that are threads of this one, and exchange all but gradients."""

    def __init__(self, rank: int, lists: list[list[object]], barrier: threading.Barrier) -> None:
        self.count, self.rank, self.main, self.device = 2, rank, rank == 0, torch.device("cpu")
        self._lists, self._barrier = lists, barrier

    def prepare(self, model: torch.nn.Module) -> torch.nn.Module:
        return model

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.gather([values])).mean(0)

    def any(self, flag: bool) -> bool:
        return any(self.gather([flag]))

    def gather(self, items: list[object]) -> list[object]:
        self._lists[self.rank] = items
        self._barrier.wait()
        found = [*self._lists[0], *self._lists[1]]
        self._barrier.wait()
        return found

    def end(self) -> None:
        pass


def together(monkeypatch: pytest.MonkeyPatch, train: Callable[[int], object]) -> list[object]:
    """What `train` gives, or raises, in each of two processes."""
    made = threading.local()
    lists, barrier = [[], []], threading.Barrier(2, timeout=10)

    def one(rank: int) -> object:
        made.processes = Together(rank, lists, barrier)
        try:
            return train(rank)
        except Exception as error:
            return error

    monkeypatch.setattr("xyscannet.training.loop.Processes", lambda device: made.processes)
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(2)))


@pytest.fixture
def begun(tiny: dict, run_folder: Path) -> TrainConfig:
    """The configuration of a run that has a state after one step."""
    config = parse_config({**tiny, "save_every": 100})
    stop_at(Trainer(config, run_folder, samples=DrawnPairs()), 1)
    return config


def test_a_file_that_one_finds_damaged_costs_no_step_that_was_done(
    begun: TrainConfig, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(rank: int) -> None:
        Trainer(begun, run_folder, samples=(DrawnPairs, Broken)[rank](), resume="auto").run()

    assert [str(error) for error in together(monkeypatch, train)] == ["photo.png: truncated"] * 2
    assert "state-0000004.pt" in names(run_folder, "state-*.pt")


def test_a_file_that_one_cannot_validate_on_costs_no_step_that_was_done(
    begun: TrainConfig, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = Spoilt(**vars(drawn_validation()))

    def train(rank: int) -> None:
        Trainer(begun, run_folder, samples=DrawnPairs(), validation=validation, resume="auto").run()

    assert [str(error) for error in together(monkeypatch, train)] == ["second.png: truncated"] * 2
    assert "state-0000003.pt" in names(run_folder, "state-*.pt")


def test_processes_that_do_not_see_the_same_run_are_refused(
    begun: TrainConfig, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(folders: tuple[Path, Path]) -> list[object]:
        return together(
            monkeypatch,
            lambda rank: Trainer(begun, folders[rank], samples=DrawnPairs(), resume="auto").step,
        )

    told = "begin from one state (steps 1, 0)"
    assert [told in str(error) for error in begin((run_folder, tmp_path / "absent"))] == [True, True]
    state = find_state("auto", run_folder)
    state["model"]["output.weight"] += 1e-6
    (tmp_path / "other").mkdir()
    save_state(tmp_path / "other" / "state-0000001.pt", state)
    assert all(isinstance(error, ConfigError) for error in begin((run_folder, tmp_path / "other")))
    assert begin((run_folder, run_folder)) == [1, 1]
