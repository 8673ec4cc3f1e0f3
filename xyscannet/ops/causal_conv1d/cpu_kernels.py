"""The causal depth-wise convolution on vectors, forward and backward (Numba, nothing of torch)."""

from __future__ import annotations

import numpy as np

from xyscannet.ops.causal_conv1d.cpu_tiles import activate, convolve
from xyscannet.ops.compiling import compiled
from xyscannet.ops.simd import LANES, clear, load, sigmoid, splat, store, write_lanes
from xyscannet.ops.tiles import (
    ADDRESS,
    CODE,
    ONE,
    TILE,
    ZERO,
    load_tile,
    numbers,
    prefetch_tile,
    split_task,
    store_tile,
)

X, WEIGHT, BIAS, OUT, DOUT, DX, PARTIAL = numbers(0, 7)
TENSORS = 7


@compiled
def conv_forward(tensors, branches, shape, real, first_task, last_task):
    """Tasks [first, last). shape = channels, channels per block, taps, groups of rows, silu."""
    channels, block, taps, groups, silu = shape[0], shape[1], shape[2], shape[3], shape[4] != 0
    blocks = (channels + block - 1) // block
    width = (block + LANES - 1) // LANES * LANES
    before = (taps - 1) * width
    kind = real.dtype
    x, y = np.zeros(before + TILE * width, kind), np.zeros(TILE * width, kind)
    weight, bias = np.zeros(taps * width, kind), np.zeros(width, kind)
    for task in range(first_task, last_task):
        branch, chunk, group = split_task(task, groups, blocks)
        inner_rows, length = branches[branch, 1], branches[branch, 2]
        rows = branches[branch, 0] * inner_rows
        lanes = min(block, channels - chunk * block)
        place = (branch, ZERO, ZERO, chunk)
        load_tile(weight, ZERO, width, tensors, WEIGHT, place, ZERO, taps, lanes)
        if tensors[branch, BIAS, CODE] >= 0:
            load_tile(bias, ZERO, width, tensors, BIAS, place, ZERO, ONE, lanes)
        for row in range(group * rows // groups, (group + 1) * rows // groups):
            place = (branch, row // inner_rows, row % inner_rows, chunk)
            clear(x, ZERO, before)
            for first in range(0, length, TILE):
                steps = min(TILE, length - first)
                load_tile(x, taps - 1, width, tensors, X, place, first, steps, lanes)
                coming = min(TILE, length - first - TILE)
                prefetch_tile(tensors, X, place, first + TILE, coming, lanes)
                prefetch_tile(tensors, OUT, place, first + TILE, coming, lanes)
                convolve(steps, width, taps, weight, bias, x, y)
                if silu:
                    activate(y, steps * width)
                store_tile(y, width, tensors, OUT, place, first, steps, lanes)
                for i in range(0, before, LANES):
                    store(x, i, load(x, TILE * width + i))


@compiled
def conv_backward(tensors, branches, shape, real, first_task, last_task):
    """Tasks [first, last) of the backward pass, from the end of each row to its start.

    The sums over rows (weight, bias) go to the task's own slice of PARTIAL, (tasks, taps + 1, width).
    """
    channels, block, taps, groups, silu = shape[0], shape[1], shape[2], shape[3], shape[4] != 0
    blocks = (channels + block - 1) // block
    width = (block + LANES - 1) // LANES * LANES
    before = (taps - 1) * width
    kind = real.dtype
    x, y = np.zeros(before + TILE * width, kind), np.zeros(TILE * width, kind)
    grad, dx = np.zeros(TILE * width + before, kind), np.zeros(TILE * width, kind)
    weight, bias = np.zeros(taps * width, kind), np.zeros(width, kind)
    partial = np.zeros((taps + 1) * width, kind)
    one = splat(bias, 1.0)
    for task in range(first_task, last_task):
        branch, chunk, group = split_task(task, groups, blocks)
        inner_rows, length = branches[branch, 1], branches[branch, 2]
        rows = branches[branch, 0] * inner_rows
        lanes = min(block, channels - chunk * block)
        place = (branch, ZERO, ZERO, chunk)
        load_tile(weight, ZERO, width, tensors, WEIGHT, place, ZERO, taps, lanes)
        if tensors[branch, BIAS, CODE] >= 0:
            load_tile(bias, ZERO, width, tensors, BIAS, place, ZERO, ONE, lanes)
        clear(partial, ZERO, partial.size)
        for row in range(group * rows // groups, (group + 1) * rows // groups):
            place = (branch, row // inner_rows, row % inner_rows, chunk)
            clear(grad, ZERO, grad.size)
            for first in range((length - 1) // TILE * TILE, -1, -TILE):
                steps = min(TILE, length - first)
                known = min(taps - 1, first)
                clear(x, ZERO, before)
                load_tile(x, taps - 1 - known, width, tensors, X, place, first - known, steps + known, lanes)
                load_tile(grad, ZERO, width, tensors, DOUT, place, first, steps, lanes)
                if silu:
                    convolve(steps, width, taps, weight, bias, x, y)
                    for i in range(0, steps * width, LANES):
                        value = load(y, i)
                        gate = sigmoid(value)
                        store(grad, i, load(grad, i) * (gate * (one + value * (one - gate))))
                for e in range(0, width, LANES):
                    for j in range(taps):
                        share = load(partial, j * width + e)
                        for t in range(steps):
                            share = share + load(grad, t * width + e) * load(x, (t + j) * width + e)
                        store(partial, j * width + e, share)
                    share = load(partial, before + width + e)
                    for t in range(steps):
                        share = share + load(grad, t * width + e)
                        value = load(weight, before + e) * load(grad, t * width + e)
                        for j in range(1, taps):
                            value = value + load(weight, before - j * width + e) * load(
                                grad, (t + j) * width + e
                            )
                        store(dx, t * width + e, value)
                    store(partial, before + width + e, share)
                store_tile(dx, width, tensors, DX, place, first, steps, lanes)
                for i in range(before - LANES, -1, -LANES):
                    store(grad, TILE * width + i, load(grad, i))
        target = tensors[branch, PARTIAL, ADDRESS] + task * partial.size * partial.itemsize
        for i in range(0, partial.size, LANES):
            write_lanes(
                tensors[branch, PARTIAL, CODE], target + i * partial.itemsize, load(partial, i), LANES
            )
