"""The middle of Mamba's mixer on vectors, for inference (Numba, nothing of torch).

Rows are walked a tile of steps at a time: convolution, the two projections, scan and gate, all in scratch arrays that
stay in the cache. Maps are float32, channels next to each other.
"""

from __future__ import annotations

import numpy as np

from xyscannet.ops.causal_conv1d.cpu_tiles import activate, convolve
from xyscannet.ops.compiling import compiled
from xyscannet.ops.cpu_pixels import SIZE, filled, read_pixels
from xyscannet.ops.selective_scan.cpu_tiles import forward_anywhere, forward_near, magnitude, prepare
from xyscannet.ops.simd import (
    F32,
    LANES,
    NEAR,
    PIXELS,
    WIDE,
    clear,
    inner,
    load,
    multiply,
    prefetch,
    read_lanes,
    sigmoid,
    store,
    write_lanes,
)
from xyscannet.ops.tiles import ZERO

STEPS = 4 * PIXELS  # of a tile


@inner
def _write_gated(y, width, z, out, z_step, out_step, steps, channels):
    """y silu(z) to address out on, z from address z on."""
    for t in range(steps):
        for e in range(0, channels, LANES):
            some = channels - e
            gate = read_lanes(y, F32, z + t * z_step + e * SIZE, some)
            value = load(y, t * width + e) * (gate * sigmoid(gate))
            write_lanes(F32, out + t * out_step + e * SIZE, value, some)


@inner
def _prefetch(x, step, steps, channels):
    for t in range(steps):
        for offset in range(0, channels * SIZE, 64):
            prefetch(x + t * step + offset)


@compiled
def mixer(branches, shape, conv, x_proj, dt_proj, decay, vectors, first_task, last_task):
    """Tasks [first, last): task = branch and group of its rows.

    branches (K, 11): outer rows, inner rows, steps; the address of u and the bytes from outer row to outer row, inner
    row to inner row, step to step; the same of the output. shape = channels, taps, rank, states (a multiple of four),
    groups of rows, bytes from u to z. Parameters are padded to whole vectors: conv (taps, width), decay (states,
    width) times log2(e), vectors (3, width) = the convolution's bias, delta's, D; x_proj and dt_proj are packed.
    """
    channels, taps, rank, states, groups, to_z = shape
    width, wide = decay.shape[1], filled(rank + 2 * states, LANES)
    kind, before = decay.dtype, (taps - 1) * width
    rates, weight = decay.reshape(-1), conv.reshape(-1)
    conv_bias, delta_bias, skip = vectors[0], vectors[1], vectors[2]
    room = STEPS * width + WIDE
    x, u, delta = np.zeros(before + room, kind), np.zeros(room, kind), np.zeros(room, kind)
    du, y, dbc = np.zeros(room, kind), np.zeros(room, kind), np.zeros(STEPS * wide + LANES, kind)
    b, c, h = dbc[rank:], dbc[rank + states :], np.zeros(states * width, kind)
    sharpest = magnitude(rates, states * width)
    for task in range(first_task, last_task):
        branch, group = task // groups, task % groups
        inner_rows, length = branches[branch, 1], branches[branch, 2]
        rows = branches[branch, 0] * inner_rows
        step, out_step = branches[branch, 6], branches[branch, 10]
        for row in range(group * rows // groups, (group + 1) * rows // groups):
            outer, inner = row // inner_rows, row % inner_rows
            source = branches[branch, 3] + outer * branches[branch, 4] + inner * branches[branch, 5]
            target = branches[branch, 7] + outer * branches[branch, 8] + inner * branches[branch, 9]
            clear(h, ZERO, states * width)
            clear(x, ZERO, before)
            for first in range(0, length, STEPS):
                steps, coming = min(STEPS, length - first), min(STEPS, length - first - STEPS)
                at, to = source + first * step, target + first * out_step
                read_pixels(at, step, steps, channels, x, before, width)
                _prefetch(at + STEPS * step, step, coming, channels)
                _prefetch(at + STEPS * step + to_z, step, coming, channels)
                convolve(steps, width, taps, weight, conv_bias, x, u)
                activate(u, steps * width)
                some = filled(steps, PIXELS)
                multiply(u, ZERO, width, some, channels, x_proj, wide, dbc, wide)
                multiply(dbc, ZERO, wide, some, rank, dt_proj, width, delta, width)
                reach = prepare(steps, width, True, True, u, delta, delta_bias, du)
                for e in range(0, width, LANES):
                    through = load(skip, e)
                    for t in range(steps):
                        store(y, t * width + e, through * load(u, t * width + e))
                if reach * sharpest < NEAR:
                    forward_near(steps, width, wide, states, rates, delta, du, b, c, y, h)
                else:
                    forward_anywhere(steps, width, wide, states, rates, delta, du, b, c, y, h)
                _write_gated(y, width, at + to_z, to, step, out_step, steps, channels)
                for i in range(0, before, LANES):
                    store(x, i, load(x, STEPS * width + i))
