"""Layer normalisation of pixels in Triton: a program sees all channels of the pixels of its tiles."""

from __future__ import annotations

import triton
import triton.language as tl

from xyscannet.ops.triton_pixels import numbers, places, read, unspecialised, within, write


@triton.jit
def _normalised(x, on, channels, EPS: tl.constexpr):
    """(x - mean) / sqrt(variance + EPS) for pixels (TILE, BLOCK), and the reciprocal deviations (TILE, 1)."""
    count = channels.to(x.dtype)
    centred = tl.where(on[None, :], x - (tl.sum(x, 1) / count)[:, None], 0.0)
    scale = (1.0 / tl.sqrt(tl.sum(centred * centred, 1) / count + EPS))[:, None]
    return centred * scale, scale


@triton.jit(**unspecialised(("x_step", "out_step", "pixels", "channels")))
def norm_forward(
    x, weight, bias, out, x_step, out_step, pixels, channels,
    TILE: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr, EPS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid (tiles,). x, out: rows of pixels; weight and bias (C,) contiguous."""
    pixel, lane = numbers(tl.program_id(0), TILE), numbers(0, BLOCK)
    on = lane < channels
    mask = within(pixel < pixels, on, VEC)
    values = read(places(x, pixel * x_step, lane, VEC), mask, REAL)
    normal, _ = _normalised(values, on, channels, EPS)
    gain, shift = read(weight + lane, on, REAL), read(bias + lane, on, REAL)
    write(places(out, pixel * out_step, lane, VEC), normal * gain[None, :] + shift[None, :], mask)


@triton.jit(**unspecialised(("x_step", "dout_step", "dx_step", "pixels", "channels")))
def norm_backward(
    x, weight, dout, dx, sums, x_step, dout_step, dx_step, pixels, channels,
    TILE: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr, EPS: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid (programs that share the tiles,). x, dout, dx: rows of pixels; weight (C,) contiguous.

    sums (programs, 2, C) takes each program's sums over its tiles: of weight and of bias.
    """
    lane = numbers(0, BLOCK)
    on = lane < channels
    gain = read(weight + lane, on, REAL)[None, :]
    grad_weight = tl.zeros([TILE, BLOCK], REAL)
    grad_bias = tl.zeros([TILE, BLOCK], REAL)
    count = channels.to(REAL)
    tiles = tl.cdiv(tl.cast(pixels, tl.int64), TILE)
    for block in range(tl.program_id(0).to(tl.int64), tiles, tl.num_programs(0)):
        pixel = numbers(block, TILE)
        mask = within(pixel < pixels, on, VEC)
        values = read(places(x, pixel * x_step, lane, VEC), mask, REAL)
        grad = read(places(dout, pixel * dout_step, lane, VEC), mask, REAL)
        normal, scale = _normalised(values, on, channels, EPS)
        grad_weight += grad * normal
        grad_bias += grad
        grad = grad * gain
        level = (tl.sum(grad, 1) / count)[:, None]
        along = (tl.sum(grad * normal, 1) / count)[:, None]
        write(places(dx, pixel * dx_step, lane, VEC), (grad - level - normal * along) * scale, mask)
    place = sums + tl.program_id(0).to(tl.int64) * 2 * channels + lane
    tl.store(place, tl.sum(grad_weight, 0), mask=on)
    tl.store(place + channels, tl.sum(grad_bias, 0), mask=on)
