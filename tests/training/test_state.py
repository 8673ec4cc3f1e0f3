from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from xyscannet.errors import ConfigError, InputError
from xyscannet.training.config import OptimiserConfig
from xyscannet.training.state import (
    STATE_VERSION,
    Ema,
    Kept,
    learning_rate,
    load_state,
    save_state,
    state_path,
    states,
)


def test_ema_is_the_weighted_sum_of_all_weights() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2).double()
    ema = Ema(model, decay=0.5)
    expected = model.weight.detach().clone()
    for updates in range(1, 8):
        with torch.no_grad():
            model.weight.copy_(torch.randn(2, 3))
        ema.update(updates)
        decay = min(0.5, (1 + updates) / (10 + updates))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(ema.module.weight, expected)
    assert not ema.module.weight.requires_grad and not ema.module.training


def test_ema_takes_buffers_as_they_are() -> None:
    model = nn.BatchNorm1d(2)
    ema = Ema(model, decay=0.9)
    model.running_mean.fill_(3.0)
    ema.update(1)
    assert ema.module.running_mean.tolist() == [3.0, 3.0]


@pytest.mark.parametrize(
    ("step", "progress", "expected"),
    [(1000, 0.0, 1e-3), (1000, 0.5, 0.5 * (1e-3 + 1e-5)), (1000, 1.0, 1e-5), (0, 0.0, 1e-4), (4, 0.0, 5e-4)],
)
def test_rate_warms_up_then_follows_the_cosine(step: int, progress: float, expected: float) -> None:
    config = OptimiserConfig(lr=1e-3, min_lr=1e-5, warmup=10)
    assert learning_rate(config, step, progress) == pytest.approx(expected, rel=1e-9)


def test_save_that_fails_leaves_the_old_state(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"version": STATE_VERSION, "step": 5})
    with pytest.raises(Exception, match="pickle|Pickl|local"):
        save_state(path, {"version": STATE_VERSION, "step": 6, "bad": lambda: None})
    assert load_state(path)["step"] == 5
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_full_disk_is_said_and_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"version": STATE_VERSION, "step": 5})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match="no space left on the disk.*untouched"):
        save_state(path, {"version": STATE_VERSION, "step": 6})
    assert load_state(path)["step"] == 5
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]


def test_states_that_cannot_be_resumed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to resume"):
        load_state(tmp_path / "state.pt")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"PK\x03\x04 not a state")
    with pytest.raises(InputError, match="broken.pt"):
        load_state(broken)
    foreign = tmp_path / "foreign.pt"
    torch.save({"weights": torch.zeros(2)}, foreign)
    with pytest.raises(InputError, match="not a training state"):
        load_state(foreign)


def test_the_newest_state_is_that_of_the_last_step(tmp_path: Path) -> None:
    """Neither the files' times nor the number of digits decide; files of other names are no states."""
    for step, written in ((5, 30), (9_999_999, 20), (10_000_000, 10)):
        path = state_path(tmp_path, step)
        path.touch()
        os.utime(path, (written, written))
    (tmp_path / "state-best.pt").touch()
    assert states(tmp_path) == [state_path(tmp_path, step) for step in (10_000_000, 9_999_999, 5)]


def test_what_was_given_up_is_removed_once(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        state_path(tmp_path, step).touch()
    kept = Kept(tmp_path, 2)
    for step in (4, 6):
        state_path(tmp_path, step).touch()  # written anew
        kept.prune(step, 3, 0)
    assert states(tmp_path) == [state_path(tmp_path, step) for step in (6, 4, 2)]
