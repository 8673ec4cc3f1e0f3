"""The causal depth-wise convolution in Triton: tiles of steps by channels of a row or column, in place."""

from __future__ import annotations

import triton
import triton.language as tl

from xyscannet.ops.triton_walk import line, unspecialised

_SIZES = ("batch", "height", "width", "channels", "vertical", "backward")
_PLAIN = unspecialised(("x", "out", "dout", "dx"), _SIZES)


@triton.jit
def _convolve(x, step, e, weight, bias, t, steps, lane, on, TAPS: tl.constexpr, REAL: tl.constexpr):
    """bias + sum_j weight_j x_{t - TAPS + 1 + j} for the steps t; x points at the row's first step."""
    value = tl.zeros([t.shape[0], lane.shape[0]], REAL)
    if bias is not None:
        value += tl.load(bias + lane, mask=on, other=0).to(REAL)[None, :]
    for j in tl.static_range(TAPS):
        s = t - (TAPS - 1) + j
        inside = ((s >= 0) & (s < steps))[:, None] & on[None, :]
        tap = tl.load(x + s[:, None] * step + lane[None, :] * e, mask=inside, other=0).to(REAL)
        value += tl.load(weight + (lane * TAPS + j), mask=on, other=0).to(REAL)[None, :] * tap
    return value


@triton.jit(**_PLAIN)
def conv_forward(
    x, weight, bias, out, x_b, x_h, x_w, x_k, out_b, out_h, out_w, out_k, x_e, out_e,
    batch, height, width, channels, vertical, backward,
    TAPS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of all rows, blocks of channels, branches).

    x, out (B, H, W, K, E) with strides *_b, *_h, *_w, *_k, *_e; weight (E, TAPS) and bias (E,)
    contiguous, bias may be None. `vertical` and `backward` hold one bit a branch.
    """
    branch = tl.program_id(2)
    upright = ((vertical >> branch) & 1) != 0
    reverse = ((backward >> branch) & 1) != 0
    lines = tl.where(upright, width, height)
    steps = tl.where(upright, height, width)
    per_row = tl.cdiv(steps, TILE)
    lane = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    on = lane < channels
    for tile in range(tl.program_id(0), batch * lines * per_row, tl.num_programs(0)):
        row = tile // per_row
        image = row // lines
        across = row - image * lines
        x_at, x_step = line(x_b, x_h, x_w, x_k, image, across, branch, upright, reverse, steps)
        out_at, out_step = line(out_b, out_h, out_w, out_k, image, across, branch, upright, reverse, steps)
        t = (tile - row * per_row) * TILE + tl.arange(0, TILE)
        y = _convolve(x + x_at, x_step, x_e, weight, bias, t, steps, lane, on, TAPS, REAL)
        if SILU:
            y = y * tl.sigmoid(y)
        place = out + out_at + t[:, None] * out_step + lane[None, :] * out_e
        tl.store(place, y.to(out.dtype.element_ty), mask=(t < steps)[:, None] & on[None, :])


@triton.jit(**_PLAIN)
def conv_backward(
    x, weight, bias, dout, dx, sums, x_b, x_h, x_w, x_k, dout_b, dout_h, dout_w, dout_k, dx_b, dx_h,
    dx_w, dx_k, x_e, dout_e, dx_e,
    batch, height, width, channels, vertical, backward,
    TAPS_PADDED: tl.constexpr,
    TAPS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, SILU: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid (programs that share the tiles, blocks of channels, branches); arguments as in `conv_forward`.

    sums (K, programs, TAPS + 1, E) takes each program's sums over its tiles: of weight and of bias.
    """
    branch = tl.program_id(2)
    upright = ((vertical >> branch) & 1) != 0
    reverse = ((backward >> branch) & 1) != 0
    lines = tl.where(upright, width, height)
    steps = tl.where(upright, height, width)
    per_row = tl.cdiv(steps, TILE)
    lane = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    on = lane < channels
    tap = tl.arange(0, TAPS_PADDED).to(tl.int64)
    grad_weight = tl.zeros([TAPS_PADDED, BLOCK], REAL)
    grad_bias = tl.zeros([BLOCK], REAL)
    for tile in range(tl.program_id(0), batch * lines * per_row, tl.num_programs(0)):
        row = tile // per_row
        image = row // lines
        across = row - image * lines
        x_at, x_step = line(x_b, x_h, x_w, x_k, image, across, branch, upright, reverse, steps)
        dout_at, dout_step = line(
            dout_b, dout_h, dout_w, dout_k, image, across, branch, upright, reverse, steps
        )
        dx_at, dx_step = line(dx_b, dx_h, dx_w, dx_k, image, across, branch, upright, reverse, steps)
        s = (tile - row * per_row) * TILE + tl.arange(0, TILE)
        inside = (s < steps)[:, None] & on[None, :]
        here = tl.load(x + x_at + s[:, None] * x_step + lane[None, :] * x_e, mask=inside, other=0).to(REAL)
        total = tl.zeros([TILE, BLOCK], REAL)
        for j in tl.static_range(TAPS):
            t = s + (TAPS - 1 - j)  # the step that sees x_s through tap j
            live = (t < steps)[:, None] & on[None, :]
            grad = tl.load(
                dout + dout_at + t[:, None] * dout_step + lane[None, :] * dout_e, mask=live, other=0
            )
            grad = grad.to(REAL)
            if SILU:
                value = _convolve(x + x_at, x_step, x_e, weight, bias, t, steps, lane, on, TAPS, REAL)
                share = tl.sigmoid(value)
                grad = grad * (share * (1.0 + value * (1.0 - share)))
            total += tl.load(weight + (lane * TAPS + j), mask=on, other=0).to(REAL)[None, :] * grad
            grad_weight += tl.where((tap == j)[:, None], tl.sum(grad * here, 0)[None, :], 0.0)
            if j == TAPS - 1:
                grad_bias += tl.sum(grad, 0)
        place = dx + dx_at + s[:, None] * dx_step + lane[None, :] * dx_e
        tl.store(place, total.to(dx.dtype.element_ty), mask=inside)
    place = sums + (branch.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * (TAPS + 1) * channels
    both = (tap < TAPS)[:, None] & on[None, :]
    tl.store(place + tap[:, None] * channels + lane[None, :], grad_weight, mask=both)
    tl.store(place + (TAPS * channels + lane), grad_bias, mask=on)
