"""Restoring clips, as tests of several files do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from xyscannet import video
from xyscannet.inference import restore_segment
from xyscannet.models import XYScanNetConfig


class Gain(nn.Module):
    """Brightens by a factor; with 1, gives back what it is given."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.config = XYScanNetConfig(width=8)
        self.gain = nn.Parameter(torch.tensor(gain), requires_grad=False)
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return x * self.gain


def restored(source: Path, output: Path, model: nn.Module, **options) -> video.Clip:
    """A clip restored segment by segment, out of order, as a cluster might."""
    clip = video.plan_clip(source, video.ClipOptions(**options))
    coding = video.choose_coding(clip, output)
    files = {}
    for segment in reversed(clip.segments):
        files[segment.number] = output.with_name(f"{output.name}.{segment.number}")
        times = restore_segment(clip, segment, coding, files[segment.number], model)
        assert times.frames == segment.frames and 0 <= times.waiting <= times.seconds
    lost = video.join(clip, coding, [files[number] for number in sorted(files)], output)
    assert not lost or source.suffix != output.suffix
    return clip


def same_beside_the_pixels(one: dict, other: dict) -> None:
    for key in one.keys() - {"pixels", "metadata", "duration"}:
        assert one[key] == other[key], key
    assert one["duration"] == pytest.approx(other["duration"], abs=1 / 30)
    assert one["metadata"].get("title") == other["metadata"].get("title")
