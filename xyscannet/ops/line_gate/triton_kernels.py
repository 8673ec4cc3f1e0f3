"""The gates of rows and columns in Triton: one pass applies them, one sums their gradients along the lines."""

from __future__ import annotations

import triton
import triton.language as tl

from xyscannet.ops.triton_pixels import numbers, places, read, unspecialised, within, write

_SIZES = ("channels", "height", "width")


@triton.jit(**unspecialised(("x_step", "out_step", "pixels", *_SIZES)))
def gate(
    x, down, across, out, x_step, out_step, pixels, channels, height, width,
    TILE: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of pixels,). x and out are rows of pixels; down (B, H, C/2) and across (B, W, C/2) contiguous."""
    pixel = numbers(tl.program_id(0), TILE)
    row = pixel // width  # of all images
    column = pixel - row * width + row // height * width
    half = channels // 2
    for block in range(tl.cdiv(channels, BLOCK)):
        lane = numbers(block, BLOCK)
        mask = within(pixel < pixels, lane < channels, VEC)
        value = read(places(x, pixel * x_step, lane, VEC), mask, REAL)
        upper = mask & (lane < half)[None, :]
        first = read(places(down, row * half, lane, 1), upper, REAL)
        second = read(places(across, column * half, lane - half, 1), mask & (lane >= half)[None, :], REAL)
        write(places(out, pixel * out_step, lane, VEC), value * tl.sigmoid(first + second), mask)


@triton.jit(**unspecialised(("x_step", "grad_step", *_SIZES)))
def sums(
    x, grad, gate, found, x_step, grad_step, channels, height, width,
    COLUMNS: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr,
    REAL: tl.constexpr,
):  # fmt: skip
    """Grid (rows of all images, or TILE columns; blocks of channels): found = sum of x grad sigmoid'(gate).

    x and grad are rows of pixels with the `channels` of these lines; gate and found (B, lines, channels) contiguous.
    A row is summed in tiles of TILE pixels, columns pixel by pixel, GROUP at once.
    """
    lane = numbers(tl.program_id(1), BLOCK)
    on = lane < channels
    total = tl.zeros([TILE, BLOCK], REAL)
    if COLUMNS:
        across = tl.cdiv(width, TILE)
        image = tl.cast(tl.program_id(0) // across, tl.int64)
        column = numbers(tl.program_id(0) - tl.program_id(0) // across * across, TILE)
        for first in range(0, height, GROUP):
            for i in tl.static_range(GROUP):
                pixel = (image * height + first + i) * width + column
                mask = within((column < width) & (first + i < height), on, VEC)
                value = read(places(x, pixel * x_step, lane, VEC), mask, REAL)
                total += value * read(places(grad, pixel * grad_step, lane, VEC), mask, REAL)
        at = (image * width + column) * channels
        mask = within(column < width, on, 1)
        share = tl.sigmoid(read(places(gate, at, lane, 1), mask, REAL))
        write(places(found, at, lane, 1), total * share * (1.0 - share), mask)
    else:
        line = tl.cast(tl.program_id(0), tl.int64)
        for first in range(0, width, TILE):
            column = first + tl.arange(0, TILE)
            pixel = line * width + column
            mask = within(column < width, on, VEC)
            value = read(places(x, pixel * x_step, lane, VEC), mask, REAL)
            total += value * read(places(grad, pixel * grad_step, lane, VEC), mask, REAL)
        share = tl.sigmoid(tl.load(gate + line * channels + lane, mask=on, other=0).to(REAL))
        result = tl.sum(total, 0) * share * (1.0 - share)
        tl.store(found + line * channels + lane, result.to(found.dtype.element_ty), mask=on)
