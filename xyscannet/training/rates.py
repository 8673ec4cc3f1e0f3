"""How fast a run's loader and its device are, each by itself."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import torch

from xyscannet.training.loop import Trainer


@dataclass(frozen=True)
class Rates:
    """Of one stage: crops a second over all processes, seconds a step, peak memory in bytes on a GPU (else None)."""

    patch: int
    batch: int
    loader_crops_per_s: float
    device_crops_per_s: float
    step_seconds: float
    peak_memory: int | None

    @property
    def data_wait(self) -> float:
        """Share of the time that the device would wait for the loader."""
        return max(0.0, 1 - self.loader_crops_per_s / self.device_crops_per_s)

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "data_wait": self.data_wait}


def measure(trainer: Trainer, *, steps: int = 5, warmup: int = 2, patience: float = 10.0) -> Rates:
    """The loader alone, then training steps alone on one of its batches, in the shape of the run's first stage; of a
    time budget that goes on, of the stage that it has reached.

    One training step is enough once `patience` seconds have gone in any process, and one to warm up where that takes as
    long.

    The steps change the trainer's weights: it is of no use for training afterwards. Blur counts as the loader's,
    wherever it is rendered.
    """
    device, step, processes = trainer.device, trainer.step, trainer.processes
    count = max(steps * trainer.config.data.workers, 2 * trainer.feed.ahead)
    with contextlib.closing(trainer.feed.from_step(0)) as made:
        for _ in range(trainer.feed.ahead + 1):  # empty what was made ahead
            one = next(made)
        begin = time.perf_counter()
        for _ in range(count):
            one = next(made)
        _synchronise(device)
        loader = (time.perf_counter() - begin) / count

    begin = time.perf_counter()
    for _ in range(warmup):
        trainer.train_step(one)
        if processes.any(time.perf_counter() - begin > patience):
            break
    _synchronise(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begin, done = time.perf_counter(), 0
    while done < steps and not (done and processes.any(time.perf_counter() - begin > patience)):
        trainer.train_step(one)
        done += 1
    _synchronise(device)
    seconds = (time.perf_counter() - begin) / done
    patch, batch = one.sharp.shape[-1], len(one.sharp) * processes.count
    trainer.step = step
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Rates(patch, batch, batch / loader, batch / seconds, seconds, peak)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
