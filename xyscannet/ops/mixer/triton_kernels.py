"""The middle of Mamba's mixer in Triton: one kernel convolves and projects, one walks the rows and scans."""

# ruff: noqa: RUF005 -- Triton knows no starred tuples.
from __future__ import annotations

import triton
import triton.language as tl

from xyscannet.ops.causal_conv1d.triton_kernels import _convolve
from xyscannet.ops.selective_scan.triton_kernels import LOG2E
from xyscannet.ops.triton_walk import line, softplus, unspecialised

_SIZES = ("batch", "height", "width", "channels", "vertical", "backward")
_PLAIN = unspecialised(("x", "dbc", "out"), (*_SIZES, "outputs"))


@triton.jit(**_PLAIN)
def convolve_and_project(
    x, weight, bias, projection, dbc, x_b, x_h, x_w, x_k, dbc_b, dbc_h, dbc_w, dbc_k, x_e, dbc_e,
    batch, height, width, channels, vertical, backward, outputs,
    TAPS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, OUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of all rows, 1, branches): dbc_t = projection silu(conv(x)_t).

    x (B, H, W, K, E), dbc (B, H, W, K, outputs) with strides *_b, *_h, *_w, *_k, *_e; weight (E, TAPS), bias (E,),
    projection (outputs, E) contiguous, the last in x's type. `vertical` and `backward` hold one bit a branch.
    """
    branch = tl.program_id(2)
    upright = ((vertical >> branch) & 1) != 0
    reverse = ((backward >> branch) & 1) != 0
    lines = tl.where(upright, width, height)
    steps = tl.where(upright, height, width)
    per_row = tl.cdiv(steps, TILE)
    output = tl.arange(0, OUT).to(tl.int64)
    for tile in range(tl.program_id(0), batch * lines * per_row, tl.num_programs(0)):
        row = tile // per_row
        image = row // lines
        across = row - image * lines
        x_at, x_step = line(x_b, x_h, x_w, x_k, image, across, branch, upright, reverse, steps)
        dbc_at, dbc_step = line(dbc_b, dbc_h, dbc_w, dbc_k, image, across, branch, upright, reverse, steps)
        t = (tile - row * per_row) * TILE + tl.arange(0, TILE)
        total = tl.zeros([TILE, OUT], tl.float32)
        for first in range(0, channels, BLOCK):
            lane = first + tl.arange(0, BLOCK).to(tl.int64)
            on = lane < channels
            u = _convolve(x + x_at, x_step, x_e, weight, bias, t, steps, lane, on, TAPS, tl.float32)
            u = (u * tl.sigmoid(u)).to(x.dtype.element_ty)
            there = projection + (output[None, :] * channels + lane[:, None])
            matrix = tl.load(there, mask=on[:, None] & (output < outputs)[None, :], other=0)  # (BLOCK, OUT)
            total = tl.dot(u, matrix, total, input_precision=PRECISION)
        place = dbc + dbc_at + t[:, None] * dbc_step + output[None, :] * dbc_e
        inside = (t < steps)[:, None] & (output < outputs)[None, :]
        tl.store(place, total.to(dbc.dtype.element_ty), mask=inside)


@triton.jit(**_PLAIN)
def walk(
    x, z, dbc, weight, bias, dt_weight, dt_bias, A, D, out,
    x_b, x_h, x_w, x_k, dbc_b, dbc_h, dbc_w, dbc_k, out_b, out_h, out_w, out_k, x_e, dbc_e, out_e,
    batch, height, width, channels, vertical, backward,
    RANK: tl.constexpr, N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
    TERMS: tl.constexpr,
):  # fmt: skip
    """Grid (rows, blocks of channels, branches): the scan, with u and delta made on the way.

    x, z (B, H, W, K, E) of the same strides, before the convolution; dbc from `convolve_and_project`: dt (RANK), B
    and C (N each); weight (E, 4), bias, dt_weight (E, RANK), dt_bias, A (N, E), D contiguous and float32.
    """
    branch = tl.program_id(2)
    upright = ((vertical >> branch) & 1) != 0
    reverse = ((backward >> branch) & 1) != 0
    lines = tl.where(upright, width, height)
    steps = tl.where(upright, height, width)
    lane = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    n = tl.arange(0, NP).to(tl.int64)
    on = lane < channels
    known = n < N
    both = known[:, None] & on[None, :]
    decay = tl.load(A + n[:, None] * channels + lane[None, :], mask=both, other=0) * LOG2E
    through = tl.load(D + lane, mask=on, other=0)
    offset = tl.load(bias + lane, mask=on, other=0)
    shift = tl.load(dt_bias + lane, mask=on, other=0)
    w0 = tl.load(weight + lane * 4, mask=on, other=0)
    w1 = tl.load(weight + (lane * 4 + 1), mask=on, other=0)
    w2 = tl.load(weight + (lane * 4 + 2), mask=on, other=0)
    w3 = tl.load(weight + (lane * 4 + 3), mask=on, other=0)
    expand = ()
    for r in tl.static_range(RANK):
        expand = expand + (tl.load(dt_weight + (lane * RANK + r), mask=on, other=0),)
    for row in range(tl.program_id(0), batch * lines, tl.num_programs(0)):
        image = row // lines
        across = row - image * lines
        x_at, x_step = line(x_b, x_h, x_w, x_k, image, across, branch, upright, reverse, steps)
        dbc_at, dbc_step = line(dbc_b, dbc_h, dbc_w, dbc_k, image, across, branch, upright, reverse, steps)
        out_at, out_step = line(out_b, out_h, out_w, out_k, image, across, branch, upright, reverse, steps)
        h = tl.zeros([NP, BLOCK], tl.float32)
        x1 = tl.zeros([BLOCK], tl.float32)  # the step before, and the two before that
        x2 = tl.zeros([BLOCK], tl.float32)
        x3 = tl.zeros([BLOCK], tl.float32)
        for first in range(0, steps, GROUP):
            xs, zs, bs, cs, ds = (), (), (), (), ()
            for i in tl.static_range(GROUP):  # all loads first, so that they are under way together
                t = first + i
                live = t < steps
                xs = xs + (tl.load(x + x_at + t * x_step + lane * x_e, mask=on & live, other=0),)
                zs = zs + (tl.load(z + x_at + t * x_step + lane * x_e, mask=on & live, other=0),)
                here = dbc + dbc_at + t * dbc_step
                bs = bs + (tl.load(here + (RANK + n) * dbc_e, mask=known & live, other=0),)
                cs = cs + (tl.load(here + (RANK + N + n) * dbc_e, mask=known & live, other=0),)
                step = shift
                for r in tl.static_range(RANK):
                    low = tl.load(here + tl.cast(r, tl.int64) * dbc_e, mask=live, other=0)
                    step += expand[r] * low.to(tl.float32)
                ds = ds + (step,)
            for i in tl.static_range(GROUP):
                t = first + i
                live = t < steps
                x0 = xs[i].to(tl.float32)
                u = offset + w0 * x3 + w1 * x2 + w2 * x1 + w3 * x0
                u = u * tl.sigmoid(u)
                x3, x2, x1 = x2, x1, x0
                dt = softplus(ds[i], TERMS)
                h = tl.exp2(dt[None, :] * decay) * h + (dt * u)[None, :] * bs[i].to(tl.float32)[:, None]
                y = tl.sum(h * cs[i].to(tl.float32)[:, None], 0) + through * u
                gate = zs[i].to(tl.float32)
                y = y * (gate * tl.sigmoid(gate))
                place = out + out_at + t * out_step + lane * out_e
                tl.store(place, y.to(out.dtype.element_ty), mask=on & live)
