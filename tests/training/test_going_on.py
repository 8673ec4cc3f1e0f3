"""Runs that go on from an earlier state, with other settings, or after a file that was damaged."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from tests.training.conftest import DrawnPairs, full_between
from tests.training.test_loop import drawn_validation, log_of
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.training.config import TrainConfig
from xyscannet.training.loop import Interrupted, Trainer
from xyscannet.training.recipes import parse_config
from xyscannet.training.samples import Batch
from xyscannet.training.state import find_state
from xyscannet.training.validate import Measured


def stop_at(trainer: Trainer, step: int) -> None:
    trainer._should_stop = lambda: trainer.step == step
    with pytest.raises(Interrupted):
        trainer.run()


def names(folder: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


@pytest.mark.parametrize("saved", [3, 5])  # before and after a state that is given up
def test_what_came_after_a_state_is_given_up_once_the_run_went_on_from_it(
    saved: int, tiny: dict, run_folder: Path
):
    config = parse_config({**tiny, "save_every": 2, "keep_states": 3, "keep_last": 2})
    Trainer(config, run_folder, samples=DrawnPairs()).run()
    other = parse_config({**tiny, "save_every": 6, "keep_states": 3, "keep_last": 2, "seed": 0})
    again = Trainer(other, run_folder, samples=DrawnPairs(), resume=run_folder / "state-0000002.pt")
    assert again.step == 2
    stop_at(again, saved)
    assert names(run_folder, "state-*.pt") == ["state-0000002.pt", f"state-000000{saved}.pt"]
    assert names(run_folder, "step-*") == [f"step-000000{saved}.safetensors"]
    assert Trainer(other, run_folder, samples=DrawnPairs(), resume="auto").step == saved
    assert [record["step"] for record in log_of(run_folder, "step")] == [*range(1, saved + 1)]


def test_a_state_that_is_given_up_and_reached_again_is_the_new_one(tiny: dict, run_folder: Path):
    config = parse_config({**tiny, "save_every": 2, "keep_states": 3})
    Trainer(config, run_folder, samples=DrawnPairs()).run()
    slower = parse_config({**tiny, "save_every": 4, "keep_states": 3, "optimiser": {"lr": 1e-5}})
    before = find_state(run_folder / "state-0000004.pt", run_folder)["model"]
    again = Trainer(slower, run_folder, samples=DrawnPairs(), resume=run_folder / "state-0000002.pt")
    stop_at(again, 4)
    now = find_state("auto", run_folder)
    assert now["step"] == 4
    assert any(not torch.equal(before[name], now["model"][name]) for name in before)


def test_another_runs_folder_is_not_gone_on_in(tiny_config: TrainConfig, tmp_path: Path):
    for name in ("first", "second"):
        Trainer(tiny_config, tmp_path / name, samples=DrawnPairs()).run()
    with pytest.raises(ConfigError, match="second holds a run already"):
        Trainer(tiny_config, tmp_path / "second", samples=DrawnPairs(), resume=tmp_path / "first")


def test_files_of_others_are_not_written_over(tiny_config: TrainConfig, run_folder: Path):
    run_folder.mkdir()
    (run_folder / "config.yaml").write_text("# written by hand")
    for resume in (None, "auto"):
        with pytest.raises(ConfigError, match="config.yaml would be written over"):
            Trainer(tiny_config, run_folder, samples=DrawnPairs(), resume=resume)
    (run_folder / "config.yaml").unlink()
    Trainer(tiny_config, run_folder, samples=DrawnPairs()).run()
    for state in run_folder.glob("state-*.pt"):  # to save room
        state.unlink()
    with pytest.raises(ConfigError, match="last.safetensors would be written over"):
        Trainer(tiny_config, run_folder, samples=DrawnPairs())
    assert Trainer(tiny_config, run_folder, samples=DrawnPairs(), resume="auto").step == 0


def test_changed_settings_are_told_and_kept(tiny: dict, run_folder: Path):
    heard: list[dict] = []
    first = Trainer(parse_config(tiny), run_folder, samples=DrawnPairs(), validation=drawn_validation())
    stop_at(first, 3)
    assert first.best > 0 and log_of(run_folder, "start")[0]["changed"] == []
    changed = {**tiny, "data": {**tiny["data"], "batch": 4}, "validation": {"every": 2}}
    second = Trainer(
        parse_config(changed), run_folder, samples=DrawnPairs(), resume="auto", on_event=heard.append
    )
    assert second.best == first.best
    stop_at(second, 4)
    assert heard[0]["changed"] == ["data.batch: 2 -> 4", "validation.every: 3 -> 2"]
    other_images = {**changed, "validation": {"every": 2, "seed": 7}}
    assert Trainer(parse_config(other_images), run_folder, samples=DrawnPairs(), resume="auto").best < 0


def test_a_run_that_another_start_has_gone_on_with_is_left_alone(tiny_config: TrainConfig, run_folder: Path):
    stop_at(Trainer(tiny_config, run_folder, samples=DrawnPairs()), 2)
    first, second = (Trainer(tiny_config, run_folder, samples=DrawnPairs(), resume="auto") for _ in range(2))
    stop_at(first, 4)
    before = names(run_folder, "*")
    with pytest.raises(ConfigError, match="gone on meanwhile"):
        second.run()
    assert names(run_folder, "*") == before and len(log_of(run_folder, "start")) == 2
    assert Trainer(tiny_config, run_folder, samples=DrawnPairs(), resume="auto").step == 4


def test_best_is_chosen_anew_where_its_weights_are_not_those_remembered(
    tiny: dict, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = iter([20.0, 30.0, 40.0])
    monkeypatch.setattr(Measured, "figures", lambda measured: {"psnr": next(found)})
    config = parse_config({**tiny, "validation": {"every": 2}, "save_every": 2, "keep_states": 9})

    def begin(resume: Path, folder: Path) -> Trainer:
        return Trainer(config, folder, samples=DrawnPairs(), validation=drawn_validation(), resume=resume)

    Trainer(config, run_folder, samples=DrawnPairs(), validation=drawn_validation()).run()
    assert begin(run_folder / "state-0000006.pt", run_folder).best == 40
    assert begin(run_folder / "state-0000004.pt", run_folder).best == -math.inf
    assert begin(run_folder / "state-0000004.pt", tmp_path / "elsewhere").best == -math.inf
    (run_folder / "best.safetensors").write_bytes(b"damaged")
    assert begin(run_folder / "state-0000006.pt", run_folder).best == -math.inf


class Broken(DrawnPairs):
    def __init__(self, at: int = 4) -> None:
        super().__init__()
        self.at = at

    def make(self, step: int, *rest) -> Batch:
        if step == self.at:
            raise InputError("photo.png: truncated")
        return super().make(step, *rest)


def test_a_damaged_file_costs_no_step_that_was_done(tiny: dict, run_folder: Path):
    config = parse_config({**tiny, "save_every": 100})
    with pytest.raises(InputError, match="truncated"):
        Trainer(config, run_folder, samples=Broken()).run()
    assert names(run_folder, "state-*.pt") == ["state-0000004.pt"]
    Trainer(config, run_folder, samples=DrawnPairs(), resume="auto").run()


def test_memory_that_runs_out_costs_no_step_that_was_done(tiny_config: TrainConfig, run_folder: Path):
    trainer = Trainer(tiny_config, run_folder, samples=DrawnPairs())
    update = trainer.update

    def short(*arguments: object) -> dict[str, float]:
        if trainer.step == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return update(*arguments)

    trainer.update = short
    short.precision = update.precision
    with pytest.raises(ConfigError, match="in a step of 2 crops of 24 pixels: raise accumulate"):
        trainer.run()
    assert find_state("auto", run_folder)["step"] == 4


def test_a_damaged_file_before_any_step_leaves_the_folder_as_it_was(tiny: dict, run_folder: Path):
    config = parse_config({**tiny, "save_every": 2, "iterations": 8, "keep_states": 3})
    with pytest.raises(InputError, match="truncated"):
        Trainer(config, run_folder, samples=Broken(at=0)).run()
    assert names(run_folder, "state-*.pt") == []
    Trainer(config, run_folder, samples=DrawnPairs()).run()
    before = names(run_folder, "state-*.pt")
    with pytest.raises(InputError, match="truncated"):
        Trainer(config, run_folder, samples=Broken(), resume=run_folder / before[0]).run()
    assert names(run_folder, "state-*.pt") == before


def test_what_validation_needs_is_missed_before_the_first_step(
    tiny_config: TrainConfig, run_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(UnavailableError, match="scikit-image"):
        Trainer(tiny_config, run_folder, samples=DrawnPairs(), validation=drawn_validation())
    assert (
        Trainer(tiny_config, run_folder, samples=DrawnPairs()).step == 0
    )  # nothing to validate, nothing missed
    assert not run_folder.exists()


def test_a_missing_tensorboard_is_told_before_the_run(
    tiny: dict, run_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UnavailableError, match="tensorboard is not installed.*--set tensorboard=false"):
        Trainer(parse_config({**tiny, "tensorboard": True}), run_folder, samples=DrawnPairs())


def test_best_weights_that_do_not_fit_on_the_disk_end_nothing(tiny: dict, run_folder: Path):
    config = parse_config(
        {**tiny, "stages": [{"until": 0.5, "patch": 24, "batch": 2}, {"until": 1, "patch": 24, "batch": 2}]}
    )
    heard: list[dict] = []
    trainer = Trainer(
        config, run_folder, samples=DrawnPairs(), validation=drawn_validation(), on_event=heard.append
    )
    with full_between(trainer, 2, 4, size=10_000):
        trainer.run()
    assert len([event for event in heard if event["event"] == "not saved"]) == 3  # best, state, stage
    assert [event["best"] for event in heard if event["event"] == "validation"] == [False, True]
    assert names(run_folder, "*.safetensors") == [
        "best.safetensors",
        "last.safetensors",
        "stage-2.safetensors",
    ]
