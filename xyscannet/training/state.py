"""What a run is between two steps: averaged weights, the saved state, the schedule."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xyscannet.errors import ConfigError, InputError
from xyscannet.files import reason, replacing
from xyscannet.training.config import OptimiserConfig

_log = logging.getLogger("xyscannet")
STATE_VERSION = 3


class Ema:
    """Exponential moving average of a network's weights, in fp32, as a network of its own (`module`).

    The decay warms up as min(decay, (1 + n) / (10 + n)) over the updates n, so that the random start is
    forgotten quickly.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self._averaged = [p.data for p in self.module.parameters()]
        self._source = [p.data for p in model.parameters()]
        self._buffers = list(zip(self.module.buffers(), model.buffers(), strict=True))

    def update(self, updates: int) -> None:
        """Take in the weights after the update number `updates` (from 1)."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(self._averaged, self._source, 1 - decay)
        for averaged, source in self._buffers:
            averaged.copy_(source)


def learning_rate(config: OptimiserConfig, step: int, progress: float) -> float:
    """Learning rate of step `step` (from 0) at a fraction `progress` of the run: warm-up times cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    rate = config.min_lr + (config.lr - config.min_lr) * cosine
    return rate * min(1.0, (step + 1) / config.warmup) if config.warmup else rate


def save_state(path: Path, value: dict[str, Any]) -> None:
    """`torch.save`, whole or not at all. Raises InputError where that is impossible; an earlier file is untouched."""
    try:
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(value, file)
    except InputError as error:
        raise InputError(f"{error}; what was saved before is untouched") from error
    except RuntimeError as error:  # what torch makes of a disk that is full
        full = error.__context__
        if not isinstance(full, OSError):
            raise
        raise InputError(
            f"{path}: cannot be written: {reason(full)}; what was saved before is untouched"
        ) from error


def load_state(path: Path) -> dict[str, Any]:
    """Read a state that the loop saved. Raises ConfigError where there is none, InputError on a broken one."""
    if not path.is_file():
        raise ConfigError(f"nothing to resume: {path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"the training state {path} cannot be read: {error}") from error
    if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
        raise InputError(f"{path} is not a training state of this version")
    return state


def state_path(folder: Path, step: int) -> Path:
    """Where the state after `step` steps is kept."""
    return folder / f"state-{step:07d}.pt"


def step_of(path: Path) -> int:
    """The step in the name of a state or of a snapshot of the weights; -1 where there is none."""
    number = path.stem.partition("-")[2]
    return int(number) if number.isdecimal() else -1


def states(folder: Path) -> list[Path]:
    """The states kept in a run's folder, the newest first: by their step, whatever the clock said."""
    return _numbered(folder, "state-*.pt")


def snapshots(folder: Path) -> list[Path]:
    """The numbered snapshots of the weights in a run's folder, the newest first."""
    return _numbered(folder, "step-*.safetensors")


def _numbered(folder: Path, pattern: str) -> list[Path]:
    return sorted(
        (path for path in folder.glob(pattern) if step_of(path) >= 0), key=lambda path: -step_of(path)
    )


class Kept:
    """The states and numbered snapshots in a run's folder, of a run that is at `step`.

    Those of later steps were given up by going back to this one; they go when there is a new state.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        self._given_up = [path for path in (*states(folder), *snapshots(folder)) if step_of(path) > step]

    def prune(self, step: int, most_states: int, most_snapshots: int) -> None:
        """After the state of `step` was saved: remove what was given up, and all but the newest of the others.

        With `most_snapshots` 0 none is removed.
        """
        for path in self._given_up:
            if step_of(path) != step:  # which has been written anew
                path.unlink(missing_ok=True)
        self._given_up = []
        old = snapshots(self._folder)[most_snapshots:] if most_snapshots else []
        for path in [*states(self._folder)[most_states:], *old]:
            path.unlink(missing_ok=True)


def is_of(resume: str | Path, output: Path) -> bool:
    """Whether what is resumed is the run in the folder `output`, as `find_state` reads it."""
    path = Path(resume)
    if str(resume) == "auto":
        return True
    return (path.parent if path.suffix == ".pt" or path.is_file() else path).resolve() == output.resolve()


def find_state(resume: str | Path, output: Path) -> dict[str, Any] | None:
    """The state to go on from: of a state's file, of the newest readable one in a folder, or of "auto".

    "auto" is the folder `output`, and None where there is no run in it. A newest state that is damaged, by a
    disk's fault say, is passed over with a warning for the one before.
    Raises ConfigError where a file or folder holds no state, InputError where no state is readable.
    """
    path = output if str(resume) == "auto" else Path(resume)
    if path.suffix == ".pt" or path.is_file():
        return load_state(path)
    kept = states(path)
    if not kept and str(resume) == "auto":
        return None
    if not kept:
        raise ConfigError(f"nothing to resume: {path} holds no state of a run")
    for newest in kept[:-1]:
        try:
            return load_state(newest)
        except InputError as error:
            _log.warning("%s; going on from the one before", error)
    return load_state(kept[-1])


def rng_state() -> dict[str, Any]:
    """State of torch's generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what `rng_state` gave; generators of devices that are not here are left alone."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
