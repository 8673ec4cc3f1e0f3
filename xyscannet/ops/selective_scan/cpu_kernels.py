"""The selective scan on vectors, forward and backward (Numba, nothing of torch).

Tensors and tasks are those of `xyscannet.ops.tiles`; what happens inside a tile is in `cpu_tiles`.
"""

from __future__ import annotations

import numpy as np

from xyscannet.ops.compiling import compiled
from xyscannet.ops.selective_scan.cpu_tiles import (
    backward_anywhere,
    backward_near,
    forward_anywhere,
    forward_near,
    magnitude,
    prepare,
)
from xyscannet.ops.simd import (
    LANES,
    LOG2E,
    NEAR,
    WIDE,
    clear,
    copy,
    load,
    load_wide,
    read_lanes,
    sigmoid,
    splat,
    store,
    totals,
    write_lanes,
)
from xyscannet.ops.tiles import (
    ADDRESS,
    CHANNEL,
    CODE,
    ONE,
    TILE,
    ZERO,
    address_of,
    load_tile,
    numbers,
    prefetch_tile,
    split_task,
    store_tile,
)

U, DELTA, Z, B, C, A, D, BIAS, OUT, STATES, LAST = numbers(0, 11)
DOUT, DU, DDELTA, DZ, DB, DC, DLAST, PARTIAL = numbers(11, 19)
TENSORS = 19


@compiled
def scan_forward(tensors, branches, shape, real, first_task, last_task):
    """Tasks [first, last) of the forward scan.

    tensors (K, TENSORS, 7) descriptors, code -1 = absent; branches (K, 3) = outer rows, inner rows, steps;
    shape = channels, channels per block, states, groups of rows, softplus; real = an empty array of the real type.
    """
    channels, block, states, groups, soft = shape[0], shape[1], shape[2], shape[3], shape[4] != 0
    blocks = (channels + block - 1) // block
    width = (block + LANES - 1) // LANES * LANES
    wide = (states + LANES - 1) // LANES * LANES
    kind = real.dtype
    u, delta, du = np.zeros(TILE * width, kind), np.zeros(TILE * width, kind), np.zeros(TILE * width, kind)
    z, y = np.zeros(TILE * width, kind), np.zeros(TILE * width, kind)
    b, c = np.zeros(TILE * wide, kind), np.zeros(TILE * wide, kind)
    decay, h = np.zeros(wide * width, kind), np.zeros(wide * width, kind)
    skip, bias = np.zeros(width, kind), np.zeros(width, kind)
    for task in range(first_task, last_task):
        branch, chunk, group = split_task(task, groups, blocks)
        inner_rows, length = branches[branch, 1], branches[branch, 2]
        rows = branches[branch, 0] * inner_rows
        lanes = min(block, channels - chunk * block)
        place = (branch, ZERO, ZERO, chunk)
        has_z, has_bias = tensors[branch, Z, CODE] >= 0, tensors[branch, BIAS, CODE] >= 0
        load_tile(decay, ZERO, width, tensors, A, place, ZERO, states, lanes)
        for i in range(0, states * width, LANES):
            store(decay, i, load(decay, i) * LOG2E)
        sharpest = magnitude(decay, states * width)
        if tensors[branch, D, CODE] >= 0:
            load_tile(skip, ZERO, width, tensors, D, place, ZERO, ONE, lanes)
        if has_bias:
            load_tile(bias, ZERO, width, tensors, BIAS, place, ZERO, ONE, lanes)
        for row in range(group * rows // groups, (group + 1) * rows // groups):
            place = (branch, row // inner_rows, row % inner_rows, chunk)
            clear(h, ZERO, h.size)
            for first in range(0, length, TILE):
                steps = min(TILE, length - first)
                if tensors[branch, STATES, CODE] >= 0:
                    start = address_of(tensors, STATES, place, first // TILE)
                    for i in range(0, states * width, LANES):
                        write_lanes(
                            tensors[branch, STATES, CODE],
                            start + i * tensors[branch, STATES, CHANNEL],
                            load(h, i),
                            LANES,
                        )
                load_tile(u, ZERO, width, tensors, U, place, first, steps, lanes)
                load_tile(delta, ZERO, width, tensors, DELTA, place, first, steps, lanes)
                load_tile(b, ZERO, wide, tensors, B, place, first, steps, states)
                load_tile(c, ZERO, wide, tensors, C, place, first, steps, states)
                reach = prepare(steps, width, soft, has_bias, u, delta, bias, du)
                for e in range(0, width, LANES):
                    through = load(skip, e)
                    for t in range(steps):
                        store(y, t * width + e, through * load(u, t * width + e))
                coming = min(TILE, length - first - TILE)
                for which in (U, DELTA, Z, OUT):
                    prefetch_tile(tensors, which, place, first + TILE, coming, lanes)
                for which in (B, C):
                    prefetch_tile(tensors, which, place, first + TILE, coming, states)
                if reach * sharpest < NEAR:
                    forward_near(steps, width, wide, states, decay, delta, du, b, c, y, h)
                else:
                    forward_anywhere(steps, width, wide, states, decay, delta, du, b, c, y, h)
                if has_z:
                    load_tile(z, ZERO, width, tensors, Z, place, first, steps, lanes)
                    for i in range(0, steps * width, WIDE):
                        gate = load_wide(z, i)
                        store(y, i, load_wide(y, i) * (gate * sigmoid(gate)))
                store_tile(y, width, tensors, OUT, place, first, steps, lanes)
            if tensors[branch, LAST, CODE] >= 0:
                store_tile(h, width, tensors, LAST, place, ZERO, states, lanes)


@compiled
def scan_backward(tensors, branches, shape, real, first_task, last_task):
    """Tasks [first, last) of the backward scan; arguments as in `scan_forward`.

    The sums over rows (A, D, bias) go to the task's own slice of PARTIAL, (tasks, states + 2, width).
    """
    channels, block, states, groups, soft = shape[0], shape[1], shape[2], shape[3], shape[4] != 0
    blocks = (channels + block - 1) // block
    width = (block + LANES - 1) // LANES * LANES
    wide = (states + LANES - 1) // LANES * LANES
    kind = real.dtype
    size = TILE * width
    u, delta, du, z = np.zeros(size, kind), np.zeros(size, kind), np.zeros(size, kind), np.zeros(size, kind)
    y, gy, gdu, gdelta = (
        np.zeros(size, kind),
        np.zeros(size, kind),
        np.zeros(size, kind),
        np.zeros(size, kind),
    )
    slope = np.zeros(size, kind)
    b, c = np.zeros(TILE * wide, kind), np.zeros(TILE * wide, kind)
    gb, gc = np.zeros(TILE * wide * LANES, kind), np.zeros(TILE * wide * LANES, kind)
    before, rate = np.zeros(4 * TILE * LANES, kind), np.zeros(4 * TILE * LANES, kind)
    decay, sharp = np.zeros(wide * width, kind), np.zeros(wide * width, kind)
    h, g, ga = np.zeros(wide * width, kind), np.zeros(wide * width, kind), np.zeros(wide * width, kind)
    partial = np.zeros((states + 2) * width, kind)
    skip, bias = np.zeros(width, kind), np.zeros(width, kind)
    one = splat(skip, 1.0)
    for task in range(first_task, last_task):
        branch, chunk, group = split_task(task, groups, blocks)
        inner_rows, length = branches[branch, 1], branches[branch, 2]
        rows = branches[branch, 0] * inner_rows
        lanes = min(block, channels - chunk * block)
        place = (branch, ZERO, ZERO, chunk)
        has_z, has_bias = tensors[branch, Z, CODE] >= 0, tensors[branch, BIAS, CODE] >= 0
        load_tile(decay, ZERO, width, tensors, A, place, ZERO, states, lanes)
        if tensors[branch, D, CODE] >= 0:
            load_tile(skip, ZERO, width, tensors, D, place, ZERO, ONE, lanes)
        if has_bias:
            load_tile(bias, ZERO, width, tensors, BIAS, place, ZERO, ONE, lanes)
        for i in range(0, states * width, LANES):
            store(sharp, i, load(decay, i) * LOG2E)
        sharpest = magnitude(sharp, states * width)
        clear(partial, ZERO, partial.size)
        clear(ga, ZERO, ga.size)
        for row in range(group * rows // groups, (group + 1) * rows // groups):
            place = (branch, row // inner_rows, row % inner_rows, chunk)
            clear(g, ZERO, g.size)
            if tensors[branch, DLAST, CODE] >= 0:
                load_tile(g, ZERO, width, tensors, DLAST, place, ZERO, states, lanes)
            for first in range((length - 1) // TILE * TILE, -1, -TILE):
                steps = min(TILE, length - first)
                start = address_of(tensors, STATES, place, first // TILE)
                for i in range(0, states * width, LANES):
                    store(
                        h,
                        i,
                        read_lanes(
                            h,
                            tensors[branch, STATES, CODE],
                            start + i * tensors[branch, STATES, CHANNEL],
                            LANES,
                        ),
                    )
                load_tile(u, ZERO, width, tensors, U, place, first, steps, lanes)
                load_tile(delta, ZERO, width, tensors, DELTA, place, first, steps, lanes)
                load_tile(b, ZERO, wide, tensors, B, place, first, steps, states)
                load_tile(c, ZERO, wide, tensors, C, place, first, steps, states)
                load_tile(gy, ZERO, width, tensors, DOUT, place, first, steps, lanes)
                if has_z:
                    load_tile(z, ZERO, width, tensors, Z, place, first, steps, lanes)
                if soft:
                    for i in range(0, steps * width, LANES):
                        store(slope, i, sigmoid(load(delta, i) + load(bias, i % width)))
                reach = prepare(steps, width, soft, has_bias, u, delta, bias, du)
                for e in range(0, width, LANES):
                    through = load(skip, e)
                    grad_skip = load(partial, states * width + e)
                    for t in range(steps):
                        i = t * width + e
                        value, grad = load(u, i), load(gy, i)
                        store(y, i, through * value)
                        if has_z:
                            gate = load(z, i)
                            open_ = sigmoid(gate)
                            store(z, i, grad * (open_ * (one + gate * (one - open_))))
                            grad = grad * (gate * open_)
                            store(gy, i, grad)
                        grad_skip = grad_skip + grad * value
                    store(partial, states * width + e, grad_skip)
                clear(gdu, ZERO, gdu.size)
                clear(gdelta, ZERO, gdelta.size)
                clear(gb, ZERO, gb.size)
                clear(gc, ZERO, gc.size)
                if reach * sharpest < NEAR:
                    backward_near(
                        steps, width, wide, states, decay, sharp, delta, du, b, c, gy, y, h, g,
                        before, rate, gdu, gdelta, ga, gb, gc,
                    )  # fmt: skip
                else:
                    backward_anywhere(
                        steps, width, wide, states, decay, sharp, delta, du, b, c, gy, y, h, g,
                        before, rate, gdu, gdelta, ga, gb, gc,
                    )  # fmt: skip
                for e in range(0, width, LANES):
                    through = load(skip, e)
                    grad_bias = load(partial, (states + 1) * width + e)
                    for t in range(steps):
                        i = t * width + e
                        step = load(delta, i)
                        grad = load(gdelta, i) + load(gdu, i) * load(u, i)
                        store(gdu, i, load(gdu, i) * step + load(gy, i) * through)
                        if soft:
                            grad = grad * load(slope, i)
                        store(gdelta, i, grad)
                        grad_bias = grad_bias + grad
                        store(z, i, load(z, i) * load(y, i))
                    store(partial, (states + 1) * width + e, grad_bias)
                for j in range(0, steps * wide, LANES):
                    store(b, j, totals(gb, j * LANES))
                    store(c, j, totals(gc, j * LANES))
                store_tile(gdu, width, tensors, DU, place, first, steps, lanes)
                store_tile(gdelta, width, tensors, DDELTA, place, first, steps, lanes)
                store_tile(b, wide, tensors, DB, place, first, steps, states)
                store_tile(c, wide, tensors, DC, place, first, steps, states)
                if has_z:
                    store_tile(z, width, tensors, DZ, place, first, steps, lanes)
        copy(ga, partial, states * width)
        target = tensors[branch, PARTIAL, ADDRESS] + task * partial.size * partial.itemsize
        for i in range(0, partial.size, LANES):
            write_lanes(
                tensors[branch, PARTIAL, CODE], target + i * partial.itemsize, load(partial, i), LANES
            )
