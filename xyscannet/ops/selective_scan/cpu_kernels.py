"""The selective scan on 16-lane vectors, forward and backward (Numba, nothing of torch).

Tensors and tasks are those of `xyscannet.ops.tiles`. The channels of a block stand on the lanes; each state runs
through a tile in a register.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from xyscannet.ops.simd import (
    LANES,
    LOG2E,
    exp2,
    load,
    read_lanes,
    sigmoid,
    softplus,
    splat,
    store,
    total,
    write_lanes,
)
from xyscannet.ops.threads import compiled
from xyscannet.ops.tiles import ADDRESS, CHANNEL, CODE, STEP, TILE, load_tile, row_of, split_task, store_tile

U, DELTA, Z, B, C, A, D, BIAS, OUT, STATES, LAST = range(11)
DOUT, DU, DDELTA, DZ, DB, DC, DLAST, PARTIAL = range(11, 19)
TENSORS = 19


@njit
def _prepare(steps, width, soft, has_bias, u, delta, bias, du):
    """delta <- softplus(delta + bias) where asked, du <- delta * u."""
    for e in range(0, width, LANES):
        shift = load(bias, e)
        for t in range(steps):
            i = t * width + e
            value = load(delta, i)
            if has_bias:
                value = value + shift
            if soft:
                value = softplus(value)
            store(delta, i, value)
            store(du, i, value * load(u, i))


@njit
def _forward_tile(steps, width, wide, states, decay, delta, du, b, c, y, h):
    """Run every state through the tile: h <- exp2(delta*decay) h + du b, y <- y + c h. Four states at a time."""
    for e in range(0, width, LANES):
        for n in range(0, states, 4):
            i0 = n * width + e
            i1 = i0 + width
            i2 = i1 + width
            i3 = i2 + width
            a0, a1, a2, a3 = load(decay, i0), load(decay, i1), load(decay, i2), load(decay, i3)
            h0, h1, h2, h3 = load(h, i0), load(h, i1), load(h, i2), load(h, i3)
            for t in range(steps):
                i = t * width + e
                j = t * wide + n
                d = load(delta, i)
                v = load(du, i)
                h0 = exp2(d * a0) * h0 + v * b[j]
                h1 = exp2(d * a1) * h1 + v * b[j + 1]
                h2 = exp2(d * a2) * h2 + v * b[j + 2]
                h3 = exp2(d * a3) * h3 + v * b[j + 3]
                store(y, i, load(y, i) + (h0 * c[j] + h1 * c[j + 1]) + (h2 * c[j + 2] + h3 * c[j + 3]))
            store(h, i0, h0)
            store(h, i1, h1)
            store(h, i2, h2)
            store(h, i3, h3)


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
        tensor = tensors[branch]
        inner_rows, length = branches[branch, 1], branches[branch, 2]
        rows = branches[branch, 0] * inner_rows
        lanes = min(block, channels - chunk * block)
        has_z, has_bias = tensor[Z, CODE] >= 0, tensor[BIAS, CODE] >= 0
        load_tile(decay, width, tensor[A], row_of(tensor[A], 0, 0, chunk), 0, states, lanes)
        for i in range(0, states * width, LANES):
            store(decay, i, load(decay, i) * LOG2E)
        if tensor[D, CODE] >= 0:
            load_tile(skip, width, tensor[D], row_of(tensor[D], 0, 0, chunk), 0, 1, lanes)
        if has_bias:
            load_tile(bias, width, tensor[BIAS], row_of(tensor[BIAS], 0, 0, chunk), 0, 1, lanes)
        for row in range(group * rows // groups, (group + 1) * rows // groups):
            outer, inner = row // inner_rows, row % inner_rows
            h[:] = 0.0
            for first in range(0, length, TILE):
                steps = min(TILE, length - first)
                if tensor[STATES, CODE] >= 0:
                    start = row_of(tensor[STATES], outer, inner, chunk) + first // TILE * tensor[STATES, STEP]
                    for i in range(0, states * width, LANES):
                        write_lanes(tensor[STATES, CODE], start + i * tensor[STATES, CHANNEL], load(h, i), LANES)
                load_tile(u, width, tensor[U], row_of(tensor[U], outer, inner, chunk), first, steps, lanes)
                load_tile(delta, width, tensor[DELTA], row_of(tensor[DELTA], outer, inner, chunk), first, steps, lanes)
                load_tile(b, wide, tensor[B], row_of(tensor[B], outer, inner, 0), first, steps, states)
                load_tile(c, wide, tensor[C], row_of(tensor[C], outer, inner, 0), first, steps, states)
                _prepare(steps, width, soft, has_bias, u, delta, bias, du)
                for e in range(0, width, LANES):
                    through = load(skip, e)
                    for t in range(steps):
                        store(y, t * width + e, through * load(u, t * width + e))
                _forward_tile(steps, width, wide, states, decay, delta, du, b, c, y, h)
                if has_z:
                    load_tile(z, width, tensor[Z], row_of(tensor[Z], outer, inner, chunk), first, steps, lanes)
                    for i in range(0, steps * width, LANES):
                        gate = load(z, i)
                        store(y, i, load(y, i) * (gate * sigmoid(gate)))
                store_tile(y, width, tensor[OUT], row_of(tensor[OUT], outer, inner, chunk), first, steps, lanes)
            if tensor[LAST, CODE] >= 0:
                store_tile(h, width, tensor[LAST], row_of(tensor[LAST], outer, inner, chunk), 0, states, lanes)


@njit
def _backward_tile(
    steps, width, wide, states, decay, delta, u, du, b, c, gy, y, h, g, before, rate, gdu, gdelta, ga, gb, gc
):
    """One tile of the backward scan, its states recomputed from those at its start (h).

    g is the gradient of the state after the tile, and of the state before it on return. y gathers the output,
    gdu, gdelta the gradients of du and delta, ga that of A, gb and gc (vectors, summed later) those of B and C.
    """
    for e in range(0, width, LANES):
        for n in range(states):
            k = n * width + e
            a = load(decay, k)
            state = load(h, k)
            grad_a = load(ga, k)
            for t in range(steps):
                i = t * width + e
                j = t * wide + n
                factor = exp2(load(delta, i) * (a * LOG2E))
                decayed = factor * state
                state = decayed + load(du, i) * b[j]
                store(rate, t * LANES, factor)
                store(before, t * LANES, decayed)
                store(y, i, load(y, i) + state * c[j])
                store(gc, j * LANES, load(gc, j * LANES) + load(gy, i) * state)
            grad = load(g, k)
            for t in range(steps - 1, -1, -1):
                i = t * width + e
                j = t * wide + n
                grad = grad + load(gy, i) * c[j]
                store(gb, j * LANES, load(gb, j * LANES) + grad * load(du, i))
                store(gdu, i, load(gdu, i) + grad * b[j])
                through = grad * load(before, t * LANES)
                grad_a = grad_a + through * load(delta, i)
                store(gdelta, i, load(gdelta, i) + through * a)
                grad = grad * load(rate, t * LANES)
            store(g, k, grad)
            store(ga, k, grad_a)


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
    y, gy, gdu, gdelta = np.zeros(size, kind), np.zeros(size, kind), np.zeros(size, kind), np.zeros(size, kind)
    slope = np.zeros(size, kind)
    b, c = np.zeros(TILE * wide, kind), np.zeros(TILE * wide, kind)
    gb, gc = np.zeros(TILE * wide * LANES, kind), np.zeros(TILE * wide * LANES, kind)
    before, rate = np.zeros(TILE * LANES, kind), np.zeros(TILE * LANES, kind)
    decay, h, g = np.zeros(wide * width, kind), np.zeros(wide * width, kind), np.zeros(wide * width, kind)
    partial = np.zeros((states + 2) * width, kind)
    skip, bias = np.zeros(width, kind), np.zeros(width, kind)
    one = splat(skip, 1.0)
    for task in range(first_task, last_task):
        branch, chunk, group = split_task(task, groups, blocks)
        tensor = tensors[branch]
        inner_rows, length = branches[branch, 1], branches[branch, 2]
        rows = branches[branch, 0] * inner_rows
        lanes = min(block, channels - chunk * block)
        has_z, has_bias = tensor[Z, CODE] >= 0, tensor[BIAS, CODE] >= 0
        load_tile(decay, width, tensor[A], row_of(tensor[A], 0, 0, chunk), 0, states, lanes)
        if tensor[D, CODE] >= 0:
            load_tile(skip, width, tensor[D], row_of(tensor[D], 0, 0, chunk), 0, 1, lanes)
        if has_bias:
            load_tile(bias, width, tensor[BIAS], row_of(tensor[BIAS], 0, 0, chunk), 0, 1, lanes)
        partial[:] = 0.0
        for row in range(group * rows // groups, (group + 1) * rows // groups):
            outer, inner = row // inner_rows, row % inner_rows
            g[:] = 0.0
            if tensor[DLAST, CODE] >= 0:
                load_tile(g, width, tensor[DLAST], row_of(tensor[DLAST], outer, inner, chunk), 0, states, lanes)
            for first in range((length - 1) // TILE * TILE, -1, -TILE):
                steps = min(TILE, length - first)
                start = row_of(tensor[STATES], outer, inner, chunk) + first // TILE * tensor[STATES, STEP]
                for i in range(0, states * width, LANES):
                    store(h, i, read_lanes(h, tensor[STATES, CODE], start + i * tensor[STATES, CHANNEL], LANES))
                load_tile(u, width, tensor[U], row_of(tensor[U], outer, inner, chunk), first, steps, lanes)
                load_tile(delta, width, tensor[DELTA], row_of(tensor[DELTA], outer, inner, chunk), first, steps, lanes)
                load_tile(b, wide, tensor[B], row_of(tensor[B], outer, inner, 0), first, steps, states)
                load_tile(c, wide, tensor[C], row_of(tensor[C], outer, inner, 0), first, steps, states)
                load_tile(gy, width, tensor[DOUT], row_of(tensor[DOUT], outer, inner, chunk), first, steps, lanes)
                if has_z:
                    load_tile(z, width, tensor[Z], row_of(tensor[Z], outer, inner, chunk), first, steps, lanes)
                if soft:
                    for i in range(0, steps * width, LANES):
                        store(slope, i, sigmoid(load(delta, i) + load(bias, i % width)))
                _prepare(steps, width, soft, has_bias, u, delta, bias, du)
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
                gdu[:] = 0.0
                gdelta[:] = 0.0
                gb[:] = 0.0
                gc[:] = 0.0
                _backward_tile(
                    steps, width, wide, states, decay, delta, u, du, b, c, gy, y, h, g,
                    before, rate, gdu, gdelta, partial, gb, gc,
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
                for t in range(steps):
                    for n in range(states):
                        j = t * wide + n
                        b[j] = total(load(gb, j * LANES))
                        c[j] = total(load(gc, j * LANES))
                store_tile(gdu, width, tensor[DU], row_of(tensor[DU], outer, inner, chunk), first, steps, lanes)
                store_tile(gdelta, width, tensor[DDELTA], row_of(tensor[DDELTA], outer, inner, chunk), first, steps, lanes)
                store_tile(b, wide, tensor[DB], row_of(tensor[DB], outer, inner, chunk), first, steps, states)
                store_tile(c, wide, tensor[DC], row_of(tensor[DC], outer, inner, chunk), first, steps, states)
                if has_z:
                    store_tile(z, width, tensor[DZ], row_of(tensor[DZ], outer, inner, chunk), first, steps, lanes)
        target = tensor[PARTIAL, ADDRESS] + task * partial.size * partial.itemsize
        for i in range(0, partial.size, LANES):
            write_lanes(tensor[PARTIAL, CODE], target + i * partial.itemsize, load(partial, i), LANES)
