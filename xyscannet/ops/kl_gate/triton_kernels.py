"""The gated sum in Triton: tiles of pixels by channels of one image, forward and backward.

`step` is the elements from pixel to pixel of a map; `high` and `wide` the rows and columns of `current` that read one
of a smaller map. Pixels of an image are counted in 32 bits, offsets in 64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from xyscannet.ops.triton_pixels import numbers, places, read, unspecialised, within, write

_SIZES = ("channels", "height", "width", "tiles", "a_high", "a_wide", "b_high", "b_wide")
_STEPS = ("x_step", "a_step", "b_step", "y_step", "grad_step", "dx_step", "da_step", "db_step")
_PLAIN = unspecialised((*_SIZES, *_STEPS))


@triton.jit
def _tile(index, channels, height, width, TILE: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr):
    """Pixels of an image, channels, and the mask of a tile; channels vary first."""
    blocks = tl.cdiv(channels, BLOCK)
    tile = index // blocks
    pixel = tile * TILE + tl.arange(0, TILE)
    channel = numbers(index - tile * blocks, BLOCK)
    return pixel, channel, within(pixel < height * width, channel < channels, VEC)


@triton.jit
def _at(image, pixel, height, width, step):
    """Offsets of pixels of an image."""
    return (tl.cast(image, tl.int64) * height * width + pixel) * step


@triton.jit
def _at_smaller(image, pixel, height, width, high, wide, step):
    """Offsets of what pixels of an image read in a smaller map."""
    row = pixel // width
    across = width // wide
    found = row // high * across + (pixel - row * width) // wide
    return (tl.cast(image, tl.int64) * (height // high) * across + found) * step


@triton.jit
def _difference(x, n):
    """log sigmoid(x) - log sigmoid(n)."""
    most = tl.maximum(-n, 0.0) - tl.maximum(-x, 0.0)
    return most + (tl.log(1.0 + tl.exp(-tl.abs(n))) - tl.log(1.0 + tl.exp(-tl.abs(x))))


@triton.jit(**_PLAIN)
def forward(
    x, a, b, y, gates, x_step, a_step, b_step, y_step,
    channels, height, width, tiles, a_high, a_wide, b_high, b_wide,
    MEAN: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of an image x images). y = g1 a + g2 b; `gates` (B, 2) is read where they are MEANs over images."""
    image = tl.program_id(0) // tiles
    pixel, channel, mask = _tile(tl.program_id(0) - image * tiles, channels, height, width, TILE, BLOCK, VEC)
    x_at = _at(image, pixel, height, width, x_step)
    a_at = _at_smaller(image, pixel, height, width, a_high, a_wide, a_step)
    b_at = _at_smaller(image, pixel, height, width, b_high, b_wide, b_step)
    first = read(places(a, a_at, channel, VEC), mask, REAL)
    second = read(places(b, b_at, channel, VEC), mask, REAL)
    if MEAN:
        first *= tl.load(gates + image * 2)
        second *= tl.load(gates + image * 2 + 1)
    else:
        current = read(places(x, x_at, channel, VEC), mask, REAL)
        share = tl.sigmoid(current)
        first *= tl.sigmoid(share * _difference(current, first))
        second *= tl.sigmoid(share * _difference(current, second))
    write(places(y, _at(image, pixel, height, width, y_step), channel, VEC), first + second, mask)


@triton.jit
def _slopes(x, n, grad, share, gates, pull, which, MEAN: tl.constexpr):
    """Of `gate * n`: the gradient of n, and what x gets through the divergence but for the factor p (1 - p)."""
    gap = _difference(x, n)
    if MEAN:
        gate = tl.load(gates + which)
        push = tl.load(pull + which)
    else:
        gate = tl.sigmoid(share * gap)
        push = grad * n * gate * (1.0 - gate)
    return grad * gate - push * share * tl.sigmoid(-n), push * (gap + 1.0)


@triton.jit(**_PLAIN)
def backward(
    x, a, b, grad, dx, da, db, gates, pull, x_step, a_step, b_step, grad_step, dx_step, da_step, db_step,
    channels, height, width, tiles, a_high, a_wide, b_high, b_wide,
    MEAN: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid as in `forward`. da and db at the size of x.

    `pull` (B, 2): the gradients of every image's mean divergences, divided by the elements of an image.
    """
    image = tl.program_id(0) // tiles
    pixel, channel, mask = _tile(tl.program_id(0) - image * tiles, channels, height, width, TILE, BLOCK, VEC)
    a_at = _at_smaller(image, pixel, height, width, a_high, a_wide, a_step)
    b_at = _at_smaller(image, pixel, height, width, b_high, b_wide, b_step)
    current = read(places(x, _at(image, pixel, height, width, x_step), channel, VEC), mask, REAL)
    upper = read(places(grad, _at(image, pixel, height, width, grad_step), channel, VEC), mask, REAL)
    first = read(places(a, a_at, channel, VEC), mask, REAL)
    second = read(places(b, b_at, channel, VEC), mask, REAL)
    share = tl.sigmoid(current)
    d_first, through_a = _slopes(current, first, upper, share, gates, pull, image * 2, MEAN)
    write(places(da, _at(image, pixel, height, width, da_step), channel, VEC), d_first, mask)
    d_second, through_b = _slopes(current, second, upper, share, gates, pull, image * 2 + 1, MEAN)
    write(places(db, _at(image, pixel, height, width, db_step), channel, VEC), d_second, mask)
    d_current = (through_a + through_b) * share * (1.0 - share)
    write(places(dx, _at(image, pixel, height, width, dx_step), channel, VEC), d_current, mask)


@triton.jit(**_PLAIN)
def sums(
    x, a, b, found, x_step, a_step, b_step,
    channels, height, width, tiles, a_high, a_wide, b_high, b_wide,
    DIVERGENCE: tl.constexpr,
    TILE: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid (programs that share an image's tiles, images); found (B, programs, 2) takes each program's sums.

    DIVERGENCE: of the divergences of a and b from x; else x is the gradient of the result: of x a and x b.
    """
    image = tl.program_id(1)
    of_a = tl.zeros([TILE, BLOCK], REAL)
    of_b = tl.zeros([TILE, BLOCK], REAL)
    for index in range(tl.program_id(0), tiles, tl.num_programs(0)):
        pixel, channel, mask = _tile(index, channels, height, width, TILE, BLOCK, VEC)
        a_at = _at_smaller(image, pixel, height, width, a_high, a_wide, a_step)
        b_at = _at_smaller(image, pixel, height, width, b_high, b_wide, b_step)
        current = read(places(x, _at(image, pixel, height, width, x_step), channel, VEC), mask, REAL)
        first = read(places(a, a_at, channel, VEC), mask, REAL)
        second = read(places(b, b_at, channel, VEC), mask, REAL)
        if DIVERGENCE:
            share = tl.sigmoid(current)
            of_a += share * _difference(current, first)  # zero beyond the mask
            of_b += share * _difference(current, second)
        else:
            of_a += current * first
            of_b += current * second
    place = found + (tl.cast(image, tl.int64) * tl.num_programs(0) + tl.program_id(0)) * 2
    tl.store(place, tl.sum(tl.sum(of_a, 1), 0))
    tl.store(place + 1, tl.sum(tl.sum(of_b, 1), 0))
