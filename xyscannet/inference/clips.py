"""Restore a segment of a clip: frames are decoded ahead of the network and encoded behind it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from xyscannet.files import replacing
from xyscannet.inference.plan import ImagePlan, plan_for
from xyscannet.inference.scales import restore_at_scales
from xyscannet.inference.stages import Ahead, Behind
from xyscannet.video import Clip, Coding, Segment, SegmentWriter, decode, pixels
from xyscannet.video.colour import Samples, stretch, woven
from xyscannet.video.deflicker import WARM_UP, Deflicker

BATCH_PIXELS = {"cpu": 500_000, "cuda": 4_000_000}  # of frames that go through the network together
_MOST_FRAMES = 16
_DEPTH = 2  # batches that wait before the network, and behind it

Planes = list[np.ndarray]  # (B, h, w) each


@dataclass(frozen=True)
class SegmentTimes:
    """How long a segment took.

    Attributes:
        frames: that were restored; 0 where the segment was there already.
        seconds: in all.
        waiting: of these, those in which the network waited for frames to be decoded or encoded.
    """

    frames: int = 0
    seconds: float = 0.0
    waiting: float = 0.0


def restore_segment(
    clip: Clip,
    segment: Segment,
    coding: Coding,
    path: Path,
    model: nn.Module,
    *,
    dtype: torch.dtype = torch.float32,
    scales: str | int = "auto",
    tile: str | int = "auto",
    ensemble: bool = False,
    sharing: int = 1,
    tell: Callable[[str], None] = lambda note: None,
    progress: Callable[[float], None] | None = None,
) -> SegmentTimes:
    """Restore a segment of a clip into a file; in one step, and not again where the file is there already.

    Decoding, the network and encoding run in threads of their own; memory does not grow with the segment's length.

    Args:
        clip, coding: from `plan_clip` and `choose_coding`, the same for all segments of a clip.
        path: the segment's file (Matroska), for `join`.
        model: an `XYScanNet` in eval mode.
        dtype, scales, tile, ensemble, sharing: as for `restore_at_scales`.
        tell: called with each thing the user should hear of.
        progress: called in this thread with the number of frames that are done, whole or in part.

    Raises:
        InputError: the clip is damaged, cannot be encoded, or the file cannot be written. Nothing is left then.
    """
    if path.exists():
        return SegmentTimes()
    started = time.perf_counter()
    plan, together = plan_frames(clip, model, dtype, tile, sharing)
    samples = Samples(
        coding.layout,
        coding.colour[3],
        coding.colour[0] == pixels.FULL_RANGE,
        clip.info.height,
        coding.by_field,
    )
    warm_up = min(WARM_UP, segment.first - clip.segments[0].first) if clip.options.deflicker else 0
    done = -warm_up
    with replacing(path, parents=True) as temporary:
        writer = SegmentWriter(temporary, clip, segment, coding)
        batches = _batches(clip, segment.first - warm_up, segment.frames + warm_up, coding.layout, together)
        try:
            with contextlib.ExitStack() as stages:
                ahead = stages.enter_context(Ahead(batches, "xyscan decoder", _DEPTH))
                encoder = stages.enter_context(Behind(partial(_write, writer), "xyscan encoder", _DEPTH))
                behind = [encoder]
                if clip.options.deflicker:
                    deflickered = partial(_deflickered, Deflicker(), samples, warm_up, encoder)
                    behind.insert(0, stages.enter_context(Behind(deflickered, "xyscan flicker")))
                for planes in ahead:
                    count = len(planes[0])
                    report = progress and (
                        lambda share, done=done, count=count: progress(max(done + share * count, 0))
                    )
                    restored = _restored(
                        planes,
                        model,
                        samples,
                        plan,
                        dtype=dtype,
                        scales=scales,
                        tile=tile,
                        sharing=sharing,
                        ensemble=ensemble,
                        tell=tell,
                        progress=report,
                    )
                    behind[0].put(restored.on_cpu() if clip.options.deflicker else restored.planes(samples))
                    done += count
                for stage in behind:
                    stage.finish()
                waiting = ahead.waited + behind[0].waited
        except BaseException:
            writer.abandon()
            raise
        writer.close()
    return SegmentTimes(done, time.perf_counter() - started, waiting)


def plan_frames(
    clip: Clip,
    model: nn.Module,
    dtype: torch.dtype,
    tile: str | int,
    sharing: int,
) -> tuple[ImagePlan, int]:
    """How each frame is restored, and how many go through the network together."""
    height, width = clip.info.height, clip.info.width
    device = next(model.parameters()).device

    def plan(rows: int) -> ImagePlan:
        return plan_for(model, rows, width, dtype=dtype, tile=tile, sharing=sharing)

    one = plan(height)
    together = min(BATCH_PIXELS.get(device.type, 0) // (height * width), _MOST_FRAMES)
    if together > 1 and one.whole and plan(height * together).whole:
        return one, together
    return one, 1


def _batches(clip: Clip, first: int, count: int, layout: pixels.Layout, together: int) -> Iterator[Planes]:
    waiting: list[Planes] = []
    for frame in decode.frames(clip.info, clip.index, first, count):
        waiting.append(pixels.to_planes(frame, layout))
        if len(waiting) == together:
            yield [np.stack(planes) for planes in zip(*waiting)]
            waiting.clear()
    if waiting:
        yield [np.stack(planes) for planes in zip(*waiting)]


@dataclass(frozen=True)
class _Restored:
    """Frames on the device: their planes before, the RGB of these, and what restoration adds to that."""

    coded: list[Tensor]  # (B, h, w) each
    rgb: Tensor  # (B, 3, H, W)
    change: Tensor  # (B, 3, H, W)

    def planes(self, samples: Samples) -> Planes:
        """The planes of the restored frames."""
        return [plane.cpu().numpy() for plane in samples.changed(self.coded, self.change)]

    def on_cpu(self) -> _Restored:
        """The frames on the CPU, RGB in 8 bits."""
        rgb = (self.rgb * 255).round_().to(torch.uint8)
        return _Restored([plane.cpu() for plane in self.coded], rgb.cpu(), self.change.cpu())


def _restored(planes: Planes, model: nn.Module, samples: Samples, plan: ImagePlan, **how) -> _Restored:
    device = next(model.parameters()).device
    with torch.inference_mode():
        coded = [torch.from_numpy(_signed(plane)).to(device) for plane in planes]
        rgb = samples.to_rgb(coded).clamp(0, 1)
        if samples.fields:
            return _Restored(coded, rgb, _by_field(model, rgb, plan, **how) - rgb)
        return _Restored(coded, rgb, restore_at_scales(model, rgb, plan, **how)[0] - rgb)


def _by_field(
    model: nn.Module, frames: Tensor, plan: ImagePlan, *, progress: Callable[[float], None] | None, **how
) -> Tensor:
    """Frames (B, 3, H, W) whose fields are restored by themselves, with rows interpolated in place of the other's.

    Where something moves, frames have combs, which the network would take for detail.
    """
    fields = []
    for k in (0, 1):
        picture = stretch(frames[:, :, k::2], 2, frames.shape[2], 2, k)
        part = progress and (lambda share, k=k: progress((k + share) / 2))
        restored, _ = restore_at_scales(model, picture, plan, progress=part, **how)
        fields.append(restored[:, :, k::2])
    return woven(*fields)


def _deflickered(
    deflicker: Deflicker, samples: Samples, warm_up: int, encoder: Behind[Planes], item: _Restored
) -> None:
    """Hand frames on with their changes blended, without those that come before the segment."""
    for i in range(len(item.rgb)):
        rgb, change = (each[i].permute(1, 2, 0).numpy() for each in (item.rgb, item.change))
        blended = torch.from_numpy(deflicker(np.ascontiguousarray(rgb), change)).permute(2, 0, 1)[None]
        if deflicker.frames > warm_up:
            encoder.put(
                _Restored([plane[i : i + 1] for plane in item.coded], item.rgb, blended).planes(samples)
            )


def _signed(plane: np.ndarray) -> np.ndarray:
    """16-bit samples in a type that torch computes with everywhere."""
    return plane if plane.dtype == np.uint8 else plane.astype(np.int32)


def _write(writer: SegmentWriter, planes: Planes) -> None:
    for each in zip(*planes):
        writer.write(each)
