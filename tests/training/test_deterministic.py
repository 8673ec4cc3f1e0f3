"""Two runs of one seed give one loss curve, bit for bit."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch.utils import deterministic as filling

from tests.training.conftest import DrawnPairs
from xyscannet.training.deterministic import deterministic
from xyscannet.training.loop import Trainer
from xyscannet.training.recipes import parse_config


def curve(folder: Path) -> list[tuple[float, float]]:
    records = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(each["loss"], each["grad_norm"]) for each in records if each["event"] == "step"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_seed_one_loss_curve(tiny: dict, tmp_path: Path, precision: str) -> None:
    curves = []
    for name, seed in (("first", 3), ("second", 3), ("other", 4)):
        config = parse_config({**tiny, "seed": seed, "precision": precision, "deterministic": True})
        Trainer(config, tmp_path / name, samples=DrawnPairs()).run()
        curves.append(curve(tmp_path / name))
    assert curves[0] == curves[1] and len(curves[0]) == 6
    assert curves[0][1:] != curves[2][1:]


def test_deterministic_algorithms_are_taken_during_the_run_only(tiny: dict, tmp_path: Path) -> None:
    for asked in (False, True):
        seen = []
        trainer = Trainer(
            parse_config({**tiny, "iterations": 1, "deterministic": asked}),
            tmp_path / str(asked),
            samples=DrawnPairs(),
            on_event=lambda event, seen=seen: seen.append(torch.are_deterministic_algorithms_enabled()),
        )
        trainer.run()
        assert set(seen) == {asked}
        assert not torch.are_deterministic_algorithms_enabled()


def test_what_was_set_before_is_set_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    with pytest.raises(KeyError), deterministic(True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
        assert not filling.fill_uninitialized_memory
        raise KeyError
    assert not torch.backends.cudnn.deterministic and torch.backends.cudnn.benchmark
    assert filling.fill_uninitialized_memory
