"""The depth-wise 3x3 convolution in Triton: a program walks down a few columns of an image, row by row.

Each row is read once, with its left and right neighbours, and added to the three rows of the result it belongs to.
`step` is the elements from pixel to pixel of a map; pixels of an image are counted in 32 bits, offsets in 64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from xyscannet.ops.triton_pixels import numbers, places, read, unspecialised, within, write

_SIZES = ("images", "channels", "height", "width")
_PLAIN = unspecialised((*_SIZES, "x_step", "grad_step", "out_step", "dx_step"))


@triton.jit
def _strip(index, height, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Image, first row and columns of a tile; columns vary first, then rows, then images."""
    across = tl.cdiv(width, COLUMNS)
    band = index // across
    bands = tl.cdiv(height, ROWS)
    image = band // bands
    column = (index - band * across) * COLUMNS + tl.arange(0, COLUMNS)
    return image, (band - image * bands) * ROWS, column


@triton.jit
def _at(image, row, column, height, width, step):
    """Offsets of the pixels of a row."""
    return ((tl.cast(image, tl.int64) * height + row) * width + column) * step


@triton.jit
def _pixels(x, image, row, column, height, width, step, channel, on, VEC: tl.constexpr, REAL: tl.constexpr):
    """The channels of pixels, zero outside the image."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    at = _at(image, row, column, height, width, step)
    return read(places(x, at, channel, VEC), within(inside, on, VEC), REAL)


@triton.jit
def _taps(weight, channel, on, REAL: tl.constexpr):
    """The nine weights of each channel, as rows (1, BLOCK)."""
    taps = ()
    for tap in tl.static_range(9):
        taps += (tl.load(weight + channel * 9 + tap, mask=on, other=0).to(REAL)[None, :],)
    return taps


@triton.jit
def _add(
    above,
    here,
    x,
    image,
    row,
    column,
    height,
    width,
    step,
    channel,
    on,
    taps,
    VEC: tl.constexpr,
    REAL: tl.constexpr,
):
    """Add a row of x to what is known of the rows above and here; returns those, the first complete, and the next."""
    left = _pixels(x, image, row, column - 1, height, width, step, channel, on, VEC, REAL)
    middle = _pixels(x, image, row, column, height, width, step, channel, on, VEC, REAL)
    right = _pixels(x, image, row, column + 1, height, width, step, channel, on, VEC, REAL)
    return (
        above + left * taps[6] + middle * taps[7] + right * taps[8],
        here + left * taps[3] + middle * taps[4] + right * taps[5],
        left * taps[0] + middle * taps[1] + right * taps[2],
    )


@triton.jit(**_PLAIN)
def convolve(
    x, second, weight, grad, out, other, x_step, grad_step, out_step, images, channels, height, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of channels x tiles of all images). out = conv(x); with `second`, silu(conv(x)) * conv(second).

    x and second are the halves of one map and follow each other in weight (C, 9) or (2C, 9). With `grad`, the
    gradient of that product, out and other take those of the two convolutions instead.
    """
    blocks = tl.cdiv(channels, BLOCK)
    index = tl.program_id(0) // blocks
    channel = numbers(tl.program_id(0) - index * blocks, BLOCK)
    on = channel < channels
    image, first, column = _strip(index, height, width, ROWS, COLUMNS)
    taps = _taps(weight, channel, on, REAL)
    above = tl.zeros([COLUMNS, BLOCK], REAL)
    here = tl.zeros([COLUMNS, BLOCK], REAL)
    if second is not None:
        more_taps = _taps(weight + channels * 9, channel, on, REAL)
        more_above = tl.zeros([COLUMNS, BLOCK], REAL)
        more_here = tl.zeros([COLUMNS, BLOCK], REAL)
    for i in tl.static_range(ROWS + 2):
        row = first - 1 + i
        value, above, here = _add(
            above, here, x, image, row, column, height, width, x_step, channel, on, taps, VEC, REAL
        )
        if second is not None:
            product, more_above, more_here = _add(
                more_above,
                more_here,
                second,
                image,
                row,
                column,
                height,
                width,
                x_step,
                channel,
                on,
                more_taps,
                VEC,
                REAL,
            )
        if i >= 2:
            mask = within((row - 1 < height) & (column < width), on, VEC)
            at = _at(image, row - 1, column, height, width, out_step)
            if second is not None:
                share = tl.sigmoid(value)
                silu = value * share
                if grad is not None:
                    grad_at = _at(image, row - 1, column, height, width, grad_step)
                    upper = read(places(grad, grad_at, channel, VEC), mask, REAL)
                    write(places(other, at, channel, VEC), upper * silu, mask)
                    value = upper * product * (share * (1.0 + value - silu))
                else:
                    value = silu * product
            write(places(out, at, channel, VEC), value, mask)


@triton.jit(**_PLAIN)
def backward(
    x, weight, grad, dx, sums, x_step, grad_step, dx_step, images, channels, height, width,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid (programs that share the tiles, blocks of channels). grad is the gradient of the convolution of x.

    sums (programs, 9, C) takes each program's sums over its tiles: of the weights' gradients.
    """
    channel = numbers(tl.program_id(1), BLOCK)
    on = channel < channels
    taps = _taps(weight, channel, on, REAL)
    totals = ()
    for _ in tl.static_range(9):
        totals += (tl.zeros([COLUMNS, BLOCK], REAL),)
    tiles = images * tl.cdiv(height, ROWS) * tl.cdiv(width, COLUMNS)
    for index in range(tl.program_id(0), tiles, tl.num_programs(0)):
        image, first, column = _strip(index, height, width, ROWS, COLUMNS)
        above = tl.zeros([COLUMNS, BLOCK], REAL)
        here = tl.zeros([COLUMNS, BLOCK], REAL)
        x_above = tl.zeros([COLUMNS, BLOCK], REAL)
        x_here = tl.zeros([COLUMNS, BLOCK], REAL)
        for i in tl.static_range(ROWS + 2):
            row = first - 1 + i
            left = _pixels(grad, image, row, column - 1, height, width, grad_step, channel, on, VEC, REAL)
            middle = _pixels(grad, image, row, column, height, width, grad_step, channel, on, VEC, REAL)
            right = _pixels(grad, image, row, column + 1, height, width, grad_step, channel, on, VEC, REAL)
            x_next = tl.zeros([COLUMNS, BLOCK], REAL)
            if i < ROWS:
                x_next = _pixels(x, image, row + 1, column, height, width, x_step, channel, on, VEC, REAL)
            value = above + right * taps[0] + middle * taps[1] + left * taps[2]
            above = here + right * taps[3] + middle * taps[4] + left * taps[5]
            here = right * taps[6] + middle * taps[7] + left * taps[8]
            totals = (
                totals[0] + x_above * right, totals[1] + x_above * middle, totals[2] + x_above * left,
                totals[3] + x_here * right, totals[4] + x_here * middle, totals[5] + x_here * left,
                totals[6] + x_next * right, totals[7] + x_next * middle, totals[8] + x_next * left,
            )  # fmt: skip
            x_above = x_here
            x_here = x_next
            if i >= 2:
                mask = within((row - 1 < height) & (column < width), on, VEC)
                at = _at(image, row - 1, column, height, width, dx_step)
                write(places(dx, at, channel, VEC), value, mask)
    place = sums + tl.cast(tl.program_id(0), tl.int64) * 9 * channels + channel
    for tap in tl.static_range(9):
        tl.store(place + tap * channels, tl.sum(totals[tap], 0), mask=on)
