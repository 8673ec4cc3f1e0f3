"""The gated sum on vectors, forward and backward (Numba, nothing of torch).

A map is (address, element code, bytes from pixel to pixel, rows and columns of `current` that read one of its own).
A task is a range of image rows. `gates` has the gates of every image, or no rows where every element has its own.
"""

from __future__ import annotations

from numba import njit

from xyscannet.ops.compiling import compiled
from xyscannet.ops.simd import (
    ITEM_SIZE,
    LANES,
    LOG2E,
    exp2,
    maximum,
    read_lanes,
    sigmoid,
    splat,
    total,
    write_lanes,
)


@njit(inline="always")
def _row(tensor, row, width):
    """Address of the first pixel that row `row` of all images reads; rows and `width` are those of `current`."""
    address, _, step, high, wide = tensor
    return address + row // high * (width // wide) * step


@njit(inline="always")
def _decay(x, zero):
    """exp(-|x|) and max(-x, 0): softplus(-x) is the second plus log(1 + the first)."""
    minus = zero - x
    return exp2(maximum(x, minus) * -LOG2E), maximum(minus, zero)


@njit(inline="always")
def _log_ratio(like, above, below):
    """log((1 + above) / (1 + below)) for both in [0, 1], as 2 artanh of a number in [-1/3, 1/3]."""
    terms = 8 if like.itemsize == 4 else 17
    s = (above - below) / (above + below + 2.0)
    square = s * s
    series = splat(like, 2.0 / (2 * terms - 1))
    for k in range(terms - 2, -1, -1):
        series = series * square + 2.0 / (2 * k + 1)
    return s * series


@njit(inline="always")
def _difference(like, x_decay, x_minus, n):
    """log sigmoid(x) - log sigmoid(n)."""
    decay, minus = _decay(n, splat(like, 0.0))
    return (minus - x_minus) + _log_ratio(like, decay, x_decay)


@njit(inline="always")
def _gate(like, gates, image, which, x, x_decay, x_minus, n):
    """The gate of n by x: of these elements, or the image's."""
    if gates.shape[0]:
        return splat(like, gates[image, which])
    return sigmoid(sigmoid(x) * _difference(like, x_decay, x_minus, n))


@compiled
def forward(tensors, shape, gates, like, first_task, last_task):
    """Tensors current, first, second, out; shape = channels, height, width, rows of all images, tasks."""
    channels, height, width, rows, tasks = shape
    x_map, a_map, b_map, y_map = tensors
    x_size, a_size = ITEM_SIZE[x_map[1]], ITEM_SIZE[a_map[1]]
    b_size, y_size = ITEM_SIZE[b_map[1]], ITEM_SIZE[y_map[1]]
    zero = splat(like, 0.0)
    for row in range(first_task * rows // tasks, last_task * rows // tasks):
        image = row // height
        x_row, a_row = _row(x_map, row, width), _row(a_map, row, width)
        b_row, y_row = _row(b_map, row, width), _row(y_map, row, width)
        for c in range(width):
            x_at, y_at = x_row + c * x_map[2], y_row + c * y_map[2]
            a_at, b_at = a_row + c // a_map[4] * a_map[2], b_row + c // b_map[4] * b_map[2]
            for e in range(0, channels, LANES):
                some = channels - e
                x = read_lanes(like, x_map[1], x_at + e * x_size, some)
                a = read_lanes(like, a_map[1], a_at + e * a_size, some)
                b = read_lanes(like, b_map[1], b_at + e * b_size, some)
                decay, minus = _decay(x, zero)
                y = _gate(like, gates, image, 0, x, decay, minus, a) * a
                y = y + _gate(like, gates, image, 1, x, decay, minus, b) * b
                write_lanes(y_map[1], y_at + e * y_size, y, some)


@njit(inline="always")
def _slopes(like, gates, image, which, x, x_decay, x_minus, n, share, grad, pull):
    """Of `gate * n`: the gradient of n, and what x gets through the divergence but for the factor p (1 - p).

    `pull` has the gradients of every image's mean divergence, divided by the elements of an image.
    """
    gap = _difference(like, x_decay, x_minus, n)
    if gates.shape[0]:
        gate, push = splat(like, gates[image, which]), splat(like, pull[image, which])
    else:
        gate = sigmoid(share * gap)
        push = grad * n * gate * (1.0 - gate)
    return grad * gate - push * share * sigmoid(n * -1.0), push * (gap + 1.0)


@compiled
def backward(tensors, shape, gates, pull, like, first_task, last_task):
    """Tensors current, first, second, gradient of out, and the gradients of the three at full size."""
    channels, height, width, rows, tasks = shape
    x_map, a_map, b_map, grad_map, dx_map, da_map, db_map = tensors
    x_size, a_size, b_size = ITEM_SIZE[x_map[1]], ITEM_SIZE[a_map[1]], ITEM_SIZE[b_map[1]]
    grad_size, dx_size = ITEM_SIZE[grad_map[1]], ITEM_SIZE[dx_map[1]]
    da_size, db_size = ITEM_SIZE[da_map[1]], ITEM_SIZE[db_map[1]]
    zero = splat(like, 0.0)
    for row in range(first_task * rows // tasks, last_task * rows // tasks):
        image = row // height
        x_row, grad_row = _row(x_map, row, width), _row(grad_map, row, width)
        a_row, b_row = _row(a_map, row, width), _row(b_map, row, width)
        dx_row, da_row = _row(dx_map, row, width), _row(da_map, row, width)
        db_row = _row(db_map, row, width)
        for c in range(width):
            a_at, b_at = a_row + c // a_map[4] * a_map[2], b_row + c // b_map[4] * b_map[2]
            for e in range(0, channels, LANES):
                some = channels - e
                x = read_lanes(like, x_map[1], x_row + c * x_map[2] + e * x_size, some)
                a = read_lanes(like, a_map[1], a_at + e * a_size, some)
                b = read_lanes(like, b_map[1], b_at + e * b_size, some)
                grad = read_lanes(like, grad_map[1], grad_row + c * grad_map[2] + e * grad_size, some)
                share = sigmoid(x)
                decay, minus = _decay(x, zero)
                da, through_a = _slopes(like, gates, image, 0, x, decay, minus, a, share, grad, pull)
                db, through_b = _slopes(like, gates, image, 1, x, decay, minus, b, share, grad, pull)
                dx = (through_a + through_b) * share * (1.0 - share)
                write_lanes(dx_map[1], dx_row + c * dx_map[2] + e * dx_size, dx, some)
                write_lanes(da_map[1], da_row + c * da_map[2] + e * da_size, da, some)
                write_lanes(db_map[1], db_row + c * db_map[2] + e * db_size, db, some)


@compiled
def sums(tensors, shape, divergence, found, like, first_task, last_task):
    """Fills found (rows of all images, 2) with sums over each row, for first and second.

    Tensors current, first, second: of the divergences. With `divergence` false the first tensor is the gradient of
    out: of its products with first and second.
    """
    channels, _, width, rows, tasks = shape
    x_map, a_map, b_map = tensors
    x_size, a_size, b_size = ITEM_SIZE[x_map[1]], ITEM_SIZE[a_map[1]], ITEM_SIZE[b_map[1]]
    zero = splat(like, 0.0)
    for row in range(first_task * rows // tasks, last_task * rows // tasks):
        x_row, a_row = _row(x_map, row, width), _row(a_map, row, width)
        b_row = _row(b_map, row, width)
        of_a, of_b = zero, zero
        for c in range(width):
            a_at, b_at = a_row + c // a_map[4] * a_map[2], b_row + c // b_map[4] * b_map[2]
            for e in range(0, channels, LANES):
                some = channels - e
                x = read_lanes(like, x_map[1], x_row + c * x_map[2] + e * x_size, some)
                a = read_lanes(like, a_map[1], a_at + e * a_size, some)
                b = read_lanes(like, b_map[1], b_at + e * b_size, some)
                if divergence:
                    share = sigmoid(x)
                    decay, minus = _decay(x, zero)
                    of_a = of_a + share * _difference(like, decay, minus, a)
                    of_b = of_b + share * _difference(like, decay, minus, b)
                else:
                    of_a = of_a + x * a
                    of_b = of_b + x * b
        found[row, 0] = total(of_a)
        found[row, 1] = total(of_b)
