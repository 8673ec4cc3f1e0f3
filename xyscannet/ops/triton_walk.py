"""What the Triton kernels share: where a row or column lies in memory, and the scalar functions of the scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_BRANCHES = 31  # directions of one launch travel as the bits of an int32


@triton.jit
def line(batch, high, wide, each, image, row, branch, vertical, backward, steps):
    """Offset of the first step of a row (column if `vertical`) and the offset from step to step, in elements.

    batch, high, wide, each: strides of (B, H, W, K); every product is taken in 64 bits.
    """
    across = tl.where(vertical, wide, high).to(tl.int64)
    along = tl.where(vertical, high, wide).to(tl.int64)
    start = (
        tl.cast(image, tl.int64) * batch + tl.cast(row, tl.int64) * across + tl.cast(branch, tl.int64) * each
    )
    return start + tl.where(backward, (steps - 1) * along, 0), tl.where(backward, -along, along)


@triton.jit
def softplus(x, TERMS: tl.constexpr):
    """log(1 + exp(x)) to the last bits for any x: max(x, 0) + 2 atanh(w / (2 + w)), w = exp(-|x|), by its series."""
    w = tl.exp(-tl.abs(x))
    s = w / (w + 2.0)
    square = s * s
    series = tl.zeros_like(x) + 1.0 / (2 * TERMS + 1)
    for i in tl.static_range(TERMS):
        series = series * square + 1.0 / (2 * (TERMS - 1 - i) + 1)
    return tl.maximum(x, 0.0) + 2.0 * s * series


def unspecialised(images: Sequence[str], plain: Sequence[str]) -> dict[str, list[str]]:
    """Options of `triton.jit`: nothing compiles again for other sizes or strides, but for channels side by side."""
    names = [f"{name}_{axis}" for name in images for axis in "bhwk"]
    return {
        "do_not_specialize": [*plain, *names],
        "do_not_specialize_on_alignment": [f"{name}_e" for name in images],
    }


def real_type(x: Tensor) -> tuple[torch.dtype, tl.dtype, int]:
    """The type of the computation for torch and for Triton, and the terms of softplus' series it needs."""
    return (torch.float64, tl.float64, 17) if x.dtype == torch.float64 else (torch.float32, tl.float32, 8)


def strides(x: Tensor | None) -> tuple[int, ...]:
    """The strides of (B, H, W, K), in elements; zeros for an absent tensor."""
    return (0, 0, 0, 0) if x is None else x.stride()[:4]


def last_stride(x: Tensor | None) -> int:
    return 0 if x is None else x.stride(-1)


def launches(directions: Sequence[str]) -> Iterator[tuple[int, int, int, int]]:
    """First branch, number of branches, and the bits of vertical and of backward branches, launch by launch."""
    for first in range(0, len(directions), MOST_BRANCHES):
        part = directions[first : first + MOST_BRANCHES]
        vertical = sum(way.endswith("y") << k for k, way in enumerate(part))
        backward = sum(way.startswith("-") << k for k, way in enumerate(part))
        yield first, len(part), vertical, backward


def most(per_horizontal: int, per_vertical: int, directions: Sequence[str]) -> int:
    """The larger of two counts, of those that occur."""
    return max(per_vertical if way.endswith("y") else per_horizontal for way in directions)
