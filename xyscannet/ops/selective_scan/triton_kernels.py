"""The selective scan in Triton, forward and backward.

A program is one warp: a block of channels, one to a lane, with all states of a channel in its lane's registers,
walks rows step by step. States stand on the first axis, so that sums over them stay in the lane. Rows are walked
in place, whatever their strides. Lengths are never specialised: nothing compiles again for another image size.
"""

# ruff: noqa: RUF005, SIM102 -- Triton knows no starred tuples, and decides only a whole `if` while it compiles.
from __future__ import annotations

import triton
import triton.language as tl

from xyscannet.ops.triton_walk import line, softplus, unspecialised

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

_SIZES = (
    "batch",
    "height",
    "width",
    "channels",
    "vertical",
    "backward",
    "chunks",
    "db_block",
    "dc_block",
    "parts",
    "items",
    "span",
)
_IMAGES = ("u", "delta", "b", "c", "z", "out", "dout", "du", "ddelta", "db", "dc", "dz")
_PLAIN = unspecialised(_IMAGES, (*_SIZES, "d_k", "d_e", "bias_k", "bias_e"))


@triton.jit
def _step_size(delta, shift, live, SOFTPLUS: tl.constexpr, TERMS: tl.constexpr):
    """The step after bias and softplus, 0 beyond the end of the row, where the state must stay as it is."""
    value = delta + shift
    if SOFTPLUS:
        value = softplus(value, TERMS)
    return value * tl.cast(live, value.dtype)


@triton.jit
def _rows_before(branch, batch, height, width, vertical):
    rows = tl.cast(branch, tl.int64) * 0
    for k in range(branch):
        rows += batch * tl.where(((vertical >> k) & 1) != 0, width, height)
    return rows


@triton.jit(**_PLAIN)
def scan_forward(
    u, delta, A, B, C, D, z, bias, out, states, last, start,
    u_b, u_h, u_w, u_k, delta_b, delta_h, delta_w, delta_k, b_b, b_h, b_w, b_k, c_b, c_h, c_w, c_k, d_k,
    d_e, z_b, z_h, z_w, z_k, bias_k, bias_e, out_b, out_h, out_w, out_k,
    u_e, delta_e, b_e, c_e, z_e, out_e,
    batch, height, width, channels, vertical, backward, chunks, parts, items, span,
    N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, GROUP: tl.constexpr,
    SOFTPLUS: tl.constexpr, REAL: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Grid (parts of rows, blocks of channels, branches).

    u, delta, z, out (B, H, W, K, E) and B, C (B, H, W, K, N) with strides *_b, *_h, *_w, *_k, *_e; D, bias (K, E)
    with strides *_k, *_e; A (K, N, E), states (K, chunks, N, E) and last (rows, N, E) of the real type, contiguous.
    `vertical` and `backward` hold one bit a branch. D, z, bias, states and last may be None.

    A row is walked in `parts` of `span` steps (a multiple of CHUNK and GROUP), each from the state that `start`
    (K, items, N, E) holds for it; without `start` a row is one part, from zero.
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
    k = branch.to(tl.int64)
    decay = tl.load(A + k * N * channels + n[:, None] * channels + lane[None, :], mask=both, other=0) * LOG2E
    through = tl.zeros([BLOCK], REAL)
    if D is not None:
        through = tl.load(D + k * d_k + lane * d_e, mask=on, other=0).to(REAL)
    shift = tl.zeros([BLOCK], REAL)
    if bias is not None:
        shift = tl.load(bias + k * bias_k + lane * bias_e, mask=on, other=0).to(REAL)
    per_row = tl.cdiv(steps, CHUNK)
    if last is not None:
        before = _rows_before(branch, batch, height, width, vertical)
    for item in range(tl.program_id(0), batch * lines * parts, tl.num_programs(0)):
        row = item // parts
        part = item - row * parts
        image = row // lines
        across = row - image * lines
        u_at, u_step = line(u_b, u_h, u_w, u_k, image, across, branch, upright, reverse, steps)
        delta_at, delta_step = line(
            delta_b, delta_h, delta_w, delta_k, image, across, branch, upright, reverse, steps
        )
        b_at, b_step = line(b_b, b_h, b_w, b_k, image, across, branch, upright, reverse, steps)
        c_at, c_step = line(c_b, c_h, c_w, c_k, image, across, branch, upright, reverse, steps)
        out_at, out_step = line(out_b, out_h, out_w, out_k, image, across, branch, upright, reverse, steps)
        if z is not None:
            z_at, z_step = line(z_b, z_h, z_w, z_k, image, across, branch, upright, reverse, steps)
        h = tl.zeros([NP, BLOCK], REAL)
        if start is not None:
            place = (k * items + item) * N * channels
            h = tl.load(start + place + n[:, None] * channels + lane[None, :], mask=both, other=0)
        for first in range(part * span, tl.minimum(steps, (part + 1) * span), GROUP):
            if states is not None:
                if first % CHUNK == 0:
                    place = (k * chunks + tl.cast(row, tl.int64) * per_row + first // CHUNK) * N * channels
                    tl.store(states + place + n[:, None] * channels + lane[None, :], h, mask=both)
            us, ds, bs, cs, zs = (), (), (), (), ()
            for i in tl.static_range(
                GROUP
            ):  # all loads of the group first, so that they are under way together
                t = first + i
                live = t < steps
                us = us + (tl.load(u + u_at + t * u_step + lane * u_e, mask=on & live, other=0),)
                ds = ds + (
                    tl.load(delta + delta_at + t * delta_step + lane * delta_e, mask=on & live, other=0),
                )
                bs = bs + (tl.load(B + b_at + t * b_step + n * b_e, mask=known & live, other=0),)
                cs = cs + (tl.load(C + c_at + t * c_step + n * c_e, mask=known & live, other=0),)
                if z is not None:
                    zs = zs + (tl.load(z + z_at + t * z_step + lane * z_e, mask=on & live, other=0),)
            for i in tl.static_range(GROUP):
                t = first + i
                live = t < steps
                x = us[i].to(REAL)
                dt = _step_size(ds[i].to(REAL), shift, live, SOFTPLUS, TERMS)
                h = tl.exp2(dt[None, :] * decay) * h + (dt * x)[None, :] * bs[i].to(REAL)[:, None]
                y = tl.sum(h * cs[i].to(REAL)[:, None], 0) + through * x
                if z is not None:
                    gate = zs[i].to(REAL)
                    y = y * (gate * tl.sigmoid(gate))
                y = y.to(out.dtype.element_ty)
                tl.store(out + out_at + t * out_step + lane * out_e, y, mask=on & live)
        if last is not None:
            place = (before + row) * channels * N
            tl.store(last + place + n[:, None] * channels + lane[None, :], h, mask=both & (part == parts - 1))


@triton.jit(**_PLAIN)
def scan_backward(
    u, delta, A, B, C, D, z, bias, dout, states, dlast, du, ddelta, dB, dC, dz, sums,
    u_b, u_h, u_w, u_k, delta_b, delta_h, delta_w, delta_k, b_b, b_h, b_w, b_k, c_b, c_h, c_w, c_k, d_k,
    d_e, z_b, z_h, z_w, z_k, bias_k, bias_e, dout_b, dout_h, dout_w, dout_k, du_b, du_h, du_w, du_k,
    ddelta_b, ddelta_h, ddelta_w, ddelta_k, db_b, db_h, db_w, db_k, dc_b, dc_h, dc_w, dc_k, dz_b, dz_h,
    dz_w, dz_k,
    u_e, delta_e, b_e, c_e, z_e, dout_e, du_e, ddelta_e, db_e, dc_e, dz_e, db_block, dc_block,
    batch, height, width, channels, vertical, backward, chunks,
    N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, SPAN: tl.constexpr,
    SOFTPLUS: tl.constexpr, REAL: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Grid (programs that share the rows, blocks of channels, branches); arguments as in `scan_forward`.

    dB and dC take a block's own sum over channels at `block * db_block`; sums (K, programs, N + 2, E) takes each
    program's sums over its rows: of A, D and bias. dlast (rows, N, E) may be None.
    """
    branch = tl.program_id(2)
    upright = ((vertical >> branch) & 1) != 0
    reverse = ((backward >> branch) & 1) != 0
    lines = tl.where(upright, width, height)
    steps = tl.where(upright, height, width)
    block = tl.program_id(1)
    lane = (block * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    n = tl.arange(0, NP).to(tl.int64)
    on = lane < channels
    known = n < N
    both = known[:, None] & on[None, :]
    k = branch.to(tl.int64)
    decay = tl.load(A + k * N * channels + n[:, None] * channels + lane[None, :], mask=both, other=0) * LOG2E
    through = tl.zeros([BLOCK], REAL)
    if D is not None:
        through = tl.load(D + k * d_k + lane * d_e, mask=on, other=0).to(REAL)
    shift = tl.zeros([BLOCK], REAL)
    if bias is not None:
        shift = tl.load(bias + k * bias_k + lane * bias_e, mask=on, other=0).to(REAL)
    per_row = tl.cdiv(steps, CHUNK)
    if dlast is not None:
        before = _rows_before(branch, batch, height, width, vertical)
    grad_a = tl.zeros([NP, BLOCK], REAL)
    grad_d = tl.zeros([BLOCK], REAL)
    grad_shift = tl.zeros([BLOCK], REAL)
    for row in range(tl.program_id(0), batch * lines, tl.num_programs(0)):
        image = row // lines
        across = row - image * lines
        u_at, u_step = line(u_b, u_h, u_w, u_k, image, across, branch, upright, reverse, steps)
        delta_at, delta_step = line(
            delta_b, delta_h, delta_w, delta_k, image, across, branch, upright, reverse, steps
        )
        b_at, b_step = line(b_b, b_h, b_w, b_k, image, across, branch, upright, reverse, steps)
        c_at, c_step = line(c_b, c_h, c_w, c_k, image, across, branch, upright, reverse, steps)
        dout_at, dout_step = line(
            dout_b, dout_h, dout_w, dout_k, image, across, branch, upright, reverse, steps
        )
        du_at, du_step = line(du_b, du_h, du_w, du_k, image, across, branch, upright, reverse, steps)
        ddelta_at, ddelta_step = line(
            ddelta_b, ddelta_h, ddelta_w, ddelta_k, image, across, branch, upright, reverse, steps
        )
        db_at, db_step = line(db_b, db_h, db_w, db_k, image, across, branch, upright, reverse, steps)
        dc_at, dc_step = line(dc_b, dc_h, dc_w, dc_k, image, across, branch, upright, reverse, steps)
        db_at += block.to(tl.int64) * db_block
        dc_at += block.to(tl.int64) * dc_block
        if z is not None:
            z_at, z_step = line(z_b, z_h, z_w, z_k, image, across, branch, upright, reverse, steps)
            dz_at, dz_step = line(dz_b, dz_h, dz_w, dz_k, image, across, branch, upright, reverse, steps)
        g = tl.zeros([NP, BLOCK], REAL)  # the gradient of the state
        if dlast is not None:
            place = (before + row) * channels * N
            g = tl.load(dlast + place + n[:, None] * channels + lane[None, :], mask=both, other=0)
        for c in range(tl.cdiv(steps, SPAN)):  # spans from the last to the first
            first = (tl.cdiv(steps, SPAN) - 1 - c) * SPAN
            chunk = first // CHUNK
            place = (k * chunks + tl.cast(row, tl.int64) * per_row + chunk) * N * channels
            h = tl.load(states + place + n[:, None] * channels + lane[None, :], mask=both, other=0)
            for t in range(chunk * CHUNK, first):  # from the kept state to the start of the span
                x = tl.load(u + u_at + t * u_step + lane * u_e, mask=on, other=0).to(REAL)
                dt = tl.load(delta + delta_at + t * delta_step + lane * delta_e, mask=on, other=0).to(REAL)
                dt = _step_size(dt, shift, True, SOFTPLUS, TERMS)
                b = tl.load(B + b_at + t * b_step + n * b_e, mask=known, other=0).to(REAL)
                h = tl.exp2(dt[None, :] * decay) * h + (dt * x)[None, :] * b[:, None]
            earlier = ()
            for i in tl.static_range(SPAN):
                t = first + i
                live = t < steps
                x = tl.load(u + u_at + t * u_step + lane * u_e, mask=on & live, other=0).to(REAL)
                dt = tl.load(delta + delta_at + t * delta_step + lane * delta_e, mask=on & live, other=0).to(
                    REAL
                )
                dt = _step_size(dt, shift, live, SOFTPLUS, TERMS)
                b = tl.load(B + b_at + t * b_step + n * b_e, mask=known & live, other=0).to(REAL)
                earlier = earlier + (h,)
                h = tl.exp2(dt[None, :] * decay) * h + (dt * x)[None, :] * b[:, None]
            for i in tl.static_range(SPAN):
                t = first + (SPAN - 1 - i)
                live = t < steps
                x = tl.load(u + u_at + t * u_step + lane * u_e, mask=on & live, other=0).to(REAL)
                raw = tl.load(delta + delta_at + t * delta_step + lane * delta_e, mask=on & live, other=0).to(
                    REAL
                )
                b = tl.load(B + b_at + t * b_step + n * b_e, mask=known & live, other=0).to(REAL)
                c_t = tl.load(C + c_at + t * c_step + n * c_e, mask=known & live, other=0).to(REAL)
                dy = tl.load(dout + dout_at + t * dout_step + lane * dout_e, mask=on & live, other=0).to(REAL)
                dt = _step_size(raw, shift, live, SOFTPLUS, TERMS)
                if z is not None:
                    gate = tl.load(z + z_at + t * z_step + lane * z_e, mask=on & live, other=0).to(REAL)
                    share = tl.sigmoid(gate)
                    y = tl.sum(h * c_t[:, None], 0) + through * x
                    dgate = dy * y * share * (1.0 + gate * (1.0 - share))
                    dgate = dgate.to(dz.dtype.element_ty)
                    tl.store(dz + dz_at + t * dz_step + lane * dz_e, dgate, mask=on & live)
                    dy = dy * (gate * share)
                dc = tl.sum(h * dy[None, :], 1).to(dC.dtype.element_ty)
                tl.store(dC + dc_at + t * dc_step + n * dc_e, dc, mask=known & live)
                g += c_t[:, None] * dy[None, :]
                db = tl.sum(g * (dt * x)[None, :], 1).to(dB.dtype.element_ty)
                tl.store(dB + db_at + t * db_step + n * db_e, db, mask=known & live)
                d_input = tl.sum(g * b[:, None], 0)  # of dt * x
                h = earlier[SPAN - 1 - i]
                g = g * tl.exp2(dt[None, :] * decay)
                d_rate = g * h  # of dt * A
                grad_a += d_rate * dt[None, :]
                d_step = tl.sum(d_rate * decay, 0) * LN2 + d_input * x
                if SOFTPLUS:
                    d_step = d_step * tl.sigmoid(raw + shift)
                grad_d += dy * x
                grad_shift += tl.where(live, d_step, 0.0)
                d_x = (d_input * dt + through * dy).to(du.dtype.element_ty)
                tl.store(du + du_at + t * du_step + lane * du_e, d_x, mask=on & live)
                d_step = d_step.to(ddelta.dtype.element_ty)
                tl.store(ddelta + ddelta_at + t * ddelta_step + lane * ddelta_e, d_step, mask=on & live)
    place = (k * tl.num_programs(0) + tl.program_id(0)) * (N + 2) * channels
    tl.store(sums + place + n[:, None] * channels + lane[None, :], grad_a, mask=both)
    tl.store(sums + place + (N * channels + lane), grad_d, mask=on)
    tl.store(sums + place + ((N + 1) * channels + lane), grad_shift, mask=on)
