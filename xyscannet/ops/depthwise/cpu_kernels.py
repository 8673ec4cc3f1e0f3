"""The depth-wise convolution on vectors, forward and backward (Numba, nothing of torch).

A map is (address, bytes from image to image, row to row, pixel to pixel); its channels are next to each other. Eight
neighbouring pixels are computed at once, so that a weight and a pixel, once loaded, serve several sums. A kernel is
made for one element code, which all maps of a call have.
"""

from __future__ import annotations

import numpy as np

from xyscannet.ops.compiling import compiled
from xyscannet.ops.depthwise.cpu_tiles import RUN, add_taps, keep
from xyscannet.ops.simd import (
    BF16,
    F32,
    F64,
    ITEM_SIZE,
    LANES,
    WIDE,
    inlined,
    load,
    load_wide,
    prefetch,
    read_lanes,
    sigmoid,
    splat,
    store,
    write_lanes,
)

PLAIN, GATED, GRADIENT = range(3)
SPAN = 32  # pixels whose channels, of a map and of its gradient, stay in the first-level cache


@inlined
def _run(like, code, at, row, pixel, low, high, weight, k, width):
    """The sums of `RUN` pixels from address `at` on, in whole vectors: rows low .. high - 1 of the taps count."""
    zero = splat(like, 0.0)
    sums = zero, zero, zero, zero, zero, zero, zero, zero
    for i in range(low, high):
        sums = add_taps(like, code, at + (i - 1) * row - pixel, pixel, weight, 3 * i * width + k, width, sums)
    return sums


@inlined
def _single(like, code, at, row, pixel, taps, weight, k, width, some):
    """The sum of one pixel: rows low .. high - 1 and columns left .. right - 1 of the taps count."""
    low, high, left, right = taps
    value = splat(like, 0.0)
    for i in range(low, high):
        for j in range(left, right):
            neighbour = read_lanes(like, code, at + (i - 1) * row + (j - 1) * pixel, some)
            value = value + load(weight, (3 * i + j) * width + k) * neighbour
    return value


@inlined
def _finish(code, mode, hold, held, pixels, some, to, out_pixel, second, grad, grad_pixel):
    """Write the sums of `pixels`, gate them by those of the other half, or write the gradients of both."""
    if mode == GATED:
        for i in range(0, pixels * LANES, WIDE):
            gate = load_wide(hold, i)
            store(hold, i, gate * sigmoid(gate) * load_wide(held, i))
    for t in range(pixels):
        gate = load(hold, t * LANES)
        if mode == GRADIENT:
            d = read_lanes(hold, code, grad + t * grad_pixel, some)
            opened = sigmoid(gate)
            silu = gate * opened
            slope = opened * (1.0 + gate - silu)
            write_lanes(code, to + t * out_pixel, d * load(held, t * LANES) * slope, some)
            write_lanes(code, to + t * out_pixel + second, d * silu, some)
        else:
            write_lanes(code, to + t * out_pixel, gate, some)


def _convolve(code, mode):
    @compiled
    def convolve(x, out, grad, shape, weight, first_task, last_task):
        """Tasks [first, last) of `tasks` groups of rows: shape = images, height, width, channels, tasks.

        weight is (1 or 2, 9, channels of a part, padded to whole vectors), flat; one part where PLAIN, else both
        halves. GATED writes `silu(first) * second`; GRADIENT, of `grad`, the gradients of first and second.
        """
        images, height, columns, channels, tasks = shape
        x_start, x_image, x_row, x_pixel = x
        out_start, out_image, out_row, out_pixel = out
        grad_start, grad_image, grad_row, grad_pixel = grad
        parts = 1 if mode == PLAIN else 2
        part, width, size = channels // parts, weight.size // 9 // parts, ITEM_SIZE[code]
        second = part * size
        hold, held = np.zeros(RUN * LANES, weight.dtype), np.zeros(RUN * LANES, weight.dtype)
        lines = images * height
        for line in range(first_task * lines // tasks, last_task * lines // tasks):
            image, y = line // height, line % height
            low, high = (1 if y == 0 else 0), (2 if y == height - 1 else 3)
            column = 0
            while column < columns:
                at = x_start + image * x_image + y * x_row + column * x_pixel
                to = out_start + image * out_image + y * out_row + column * out_pixel
                given = grad_start + image * grad_image + y * grad_row + column * grad_pixel
                if column > 0 and column + RUN < columns and part >= LANES:
                    for offset in range(0, RUN * x_pixel, 64):
                        prefetch(at + 2 * x_row + offset)
                    for first in range(0, part, LANES):
                        e = min(
                            first, part - LANES
                        )  # the last vector overlaps the one before, without a mask
                        here = at + e * size
                        keep(
                            hold,
                            0,
                            LANES,
                            _run(weight, code, here, x_row, x_pixel, low, high, weight, e, width),
                        )
                        if mode != PLAIN:
                            k = e + 9 * width
                            keep(
                                held,
                                0,
                                LANES,
                                _run(
                                    weight, code, here + second, x_row, x_pixel, low, high, weight, k, width
                                ),
                            )
                        there, d = to + e * size, given + e * size
                        _finish(code, mode, hold, held, RUN, LANES, there, out_pixel, second, d, grad_pixel)
                    column += RUN
                else:
                    left, right = (1 if column == 0 else 0), (2 if column == columns - 1 else 3)
                    taps = low, high, left, right
                    for e in range(0, part, LANES):
                        some, here = part - e, at + e * size
                        store(
                            hold, 0, _single(weight, code, here, x_row, x_pixel, taps, weight, e, width, some)
                        )
                        if mode != PLAIN:
                            k = e + 9 * width
                            other = _single(
                                weight, code, here + second, x_row, x_pixel, taps, weight, k, width, some
                            )
                            store(held, 0, other)
                        there, d = to + e * size, given + e * size
                        _finish(code, mode, hold, held, 1, some, there, out_pixel, second, d, grad_pixel)
                    column += 1

    return convolve


def _weight_gradient(code):
    @compiled
    def weight_gradient(x, grad, shape, sums, first_task, last_task):
        """sums (tasks, 9, width) <- the products of grad and the pixels around it, over the task's rows."""
        images, height, columns, channels, tasks = shape
        x_start, x_image, x_row, x_pixel = x
        grad_start, grad_image, grad_row, grad_pixel = grad
        size, lines = ITEM_SIZE[code], images * height
        for task in range(first_task, last_task):
            mine = sums[task].reshape(-1)
            width = mine.size // 9
            for line in range(task * lines // tasks, (task + 1) * lines // tasks):
                image, y = line // height, line % height
                low, high = (1 if y == 0 else 0), (2 if y == height - 1 else 3)
                for start in range(0, columns, SPAN):
                    stop = min(start + SPAN, columns)
                    for e in range(0, channels, LANES):
                        some = channels - e
                        given = grad_start + image * grad_image + y * grad_row + e * size
                        for i in range(low, high):
                            at = x_start + image * x_image + (y + i - 1) * x_row + e * size
                            j = 3 * i * width + e
                            s0, s1, s2 = load(mine, j), load(mine, j + width), load(mine, j + 2 * width)
                            before = splat(mine, 0.0)
                            if start > 0:
                                before = read_lanes(mine, code, at + (start - 1) * x_pixel, some)
                            here = read_lanes(mine, code, at + start * x_pixel, some)
                            for column in range(start, stop):
                                after = splat(mine, 0.0)
                                if column + 1 < columns:
                                    after = read_lanes(mine, code, at + (column + 1) * x_pixel, some)
                                d = read_lanes(mine, code, given + column * grad_pixel, some)
                                s0, s1, s2 = s0 + d * before, s1 + d * here, s2 + d * after
                                before, here = here, after
                            store(mine, j, s0)
                            store(mine, j + width, s1)
                            store(mine, j + 2 * width, s2)

    return weight_gradient


CONVOLVE = {
    (code, mode): _convolve(code, mode) for code in (F32, BF16, F64) for mode in (PLAIN, GATED, GRADIENT)
}
WEIGHT_GRADIENT = {code: _weight_gradient(code) for code in (F32, BF16, F64)}
