"""What the Triton kernels over feature maps share: where pixels lie, what a program takes, reading and writing.

A map (B, C, H, W) is rows of pixels (`channels_last.rows`): channels side by side, any distance from pixel to pixel,
so halves of a chunk are read in place. A program takes tiles of TILE pixels by BLOCK channels.

In a kernel: `numbers` (the pixels or channels of a tile, 64 bits), `places` (pointers to a tile), `within` (its
mask), `read` and `write`. For `jit`: `unspecialised`. At the launch: `whole_block` or `part_block` (channels of a
tile), `tile` (pixels of a tile), `vector` (elements that may be moved together), `real_type`, `steps`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

VECTOR_BYTES = 16  # the most that a thread moves at once
WARPS = 4


@triton.jit
def numbers(block, SIZE: tl.constexpr):
    """block * SIZE ... block * SIZE + SIZE - 1, in 64 bits."""
    return tl.cast(block, tl.int64) * SIZE + tl.arange(0, SIZE)


@triton.jit
def places(x, at, channel, VEC: tl.constexpr):
    """Pointers (TILE, BLOCK) to channels of the pixels that begin `at` elements (int64) from x.

    The caller vouches that runs of VEC channels begin at addresses that are multiples of their size (`vector`).
    """
    pointers = x + (at[:, None] + channel[None, :])
    return tl.multiple_of(pointers, (1, VEC * x.dtype.element_ty.primitive_bitwidth // 8))


@triton.jit
def within(inside, on, VEC: tl.constexpr):
    """The mask (TILE, BLOCK) of pixels `inside` and channels `on`, alike in runs of VEC channels."""
    return tl.max_constancy(inside[:, None] & on[None, :], (1, VEC))


@triton.jit
def read(pointers, mask, REAL: tl.constexpr):
    """The values there in the type of the computation, zero beyond the mask."""
    return tl.load(pointers, mask=mask, other=0).to(REAL)


@triton.jit
def write(pointers, values, mask):
    """Store the values in the type of the map."""
    tl.store(pointers, values.to(pointers.dtype.element_ty), mask=mask)


def unspecialised(names: Sequence[str]) -> dict[str, list[str]]:
    """Options of `triton.jit`: nothing compiles again for other values of these integers."""
    return {"do_not_specialize": list(names)}


def whole_block(channels: int) -> int:
    """BLOCK where a program must see all channels of a pixel."""
    return max(16, triton.next_power_of_2(channels))


def part_block(channels: int) -> int:
    """BLOCK where channels are independent: the largest of those that leave the fewest lanes idle."""
    return min((64, 32, 16), key=lambda block: -(-channels // block) * block)


def tile(block: int, elements: int = 4096) -> int:
    """TILE for about so many elements a program: a power of two, at least one."""
    return max(1, elements // block)


def vector(channels: int, *maps: Tensor) -> int:
    """VEC for maps that one kernel reads and writes: a power of two that divides channels, strides and addresses.

    Maps may be of any dimensions with channels last and side by side; those of size 1 do not count.
    """
    size = max(m.element_size() for m in maps)
    found = math.gcd(VECTOR_BYTES // size, channels)
    for m in maps:
        distances = [step for step, extent in zip(m.stride()[:-1], m.shape[:-1], strict=True) if extent > 1]
        found = math.gcd(found, m.data_ptr() // m.element_size(), *distances)
    return found


def real_type(*maps: Tensor) -> tuple[torch.dtype, tl.dtype]:
    """The type of the computation for torch and for Triton: float64 where a map is, float32 otherwise."""
    if any(m.dtype == torch.float64 for m in maps):
        return torch.float64, tl.float64
    return torch.float32, tl.float32


def steps(*maps: Tensor) -> tuple[int, ...]:
    """Elements from pixel to pixel of each of these rows."""
    return tuple(m.stride(0) for m in maps)
