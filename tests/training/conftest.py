"""A small run: a tiny network on pairs drawn from the step's number."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.limits import FullDisk
from xyscannet.training.config import TrainConfig
from xyscannet.training.loop import Trainer
from xyscannet.training.recipes import parse_config
from xyscannet.training.samples import Batch


class DrawnPairs:
    """Blocky random images and their horizontal average; `spoil` puts NaN into that step's batch."""

    def __init__(self, spoil: int | None = None) -> None:
        self.spoil, self.made = spoil, []

    def make(self, step: int, patch: int, batch: int, items: Sequence[int]) -> Batch:
        self.made.append(step)
        generator = torch.Generator().manual_seed(step)
        blocks = torch.rand(batch, 3, patch // 8, patch // 8, generator=generator)
        sharp = F.interpolate(blocks, scale_factor=8)
        blur = F.avg_pool2d(F.pad(sharp, (2, 2, 0, 0), mode="replicate"), (1, 5), 1)
        if step == self.spoil:
            blur[0, 0, 0, 0] = float("nan")
        chosen = list(items)
        origin = tuple(f"step {step} item {item}" for item in chosen)
        return Batch(step, sharp[chosen], blur[chosen], origin=origin)

    def to_device(
        self, batches: Sequence[Batch], device: torch.device
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(batch.blur.to(device), batch.sharp.to(device)) for batch in batches]

    def manifest(self) -> dict[str, object]:
        return {"kind": "drawn"}


@pytest.fixture
def pairs() -> DrawnPairs:
    return DrawnPairs()


@pytest.fixture
def tiny() -> dict[str, object]:
    """Values of a configuration that runs a step in some hundredths of a second."""
    return {
        "name": "tiny",
        "model": {"width": 8, "encoder_blocks": [1, 0, 0], "decoder_blocks": [1, 0, 0], "d_state": 4},
        "data": {"patch": 24, "batch": 2, "prefetch": 2},
        "optimiser": {"lr": 2e-3, "warmup": 2},
        "ema_decay": 0.9,
        "iterations": 6,
        "log_every": 1,
        "save_every": 3,
        "validation": {"every": 3},
        "tensorboard": False,
    }


@pytest.fixture
def tiny_config(tiny: dict[str, object]) -> TrainConfig:
    return parse_config(tiny)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@contextlib.contextmanager
def full_between(trainer: Trainer, first: int, last: int | None = None, *, size: int) -> Iterator[None]:
    """While the trainer runs, no file may grow beyond `size` bytes from step `first` on, until step `last`."""
    full = FullDisk(size)

    def stop() -> bool:
        if trainer.step == first:
            full.__enter__()
        if trainer.step == last:
            full.__exit__()
        return False

    trainer._should_stop = stop
    try:
        yield
    finally:
        full.__exit__()
