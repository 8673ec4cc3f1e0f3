"""`silu(gate) * value` in Triton: a program takes all channels of its pixels, a block after another."""

from __future__ import annotations

import triton
import triton.language as tl

from xyscannet.ops.triton_pixels import numbers, places, read, unspecialised, within, write


@triton.jit(**unspecialised(("gate_step", "value_step", "out_step", "pixels", "channels")))
def gate_forward(
    gate, value, out, gate_step, value_step, out_step, pixels, channels,
    TILE: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid (tiles,). All maps are rows of pixels."""
    pixel = numbers(tl.program_id(0), TILE)
    for block in range(tl.cdiv(channels, BLOCK)):
        lane = numbers(block, BLOCK)
        mask = within(pixel < pixels, lane < channels, VEC)
        g = read(places(gate, pixel * gate_step, lane, VEC), mask, REAL)
        v = read(places(value, pixel * value_step, lane, VEC), mask, REAL)
        write(places(out, pixel * out_step, lane, VEC), g * tl.sigmoid(g) * v, mask)


@triton.jit(
    **unspecialised(
        ("gate_step", "value_step", "dout_step", "dgate_step", "dvalue_step", "pixels", "channels")
    )
)
def gate_backward(
    gate, value, dout, dgate, dvalue, gate_step, value_step, dout_step, dgate_step, dvalue_step, pixels, channels,
    TILE: tl.constexpr, BLOCK: tl.constexpr, VEC: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid (tiles,). All maps are rows of pixels."""
    pixel = numbers(tl.program_id(0), TILE)
    for block in range(tl.cdiv(channels, BLOCK)):
        lane = numbers(block, BLOCK)
        mask = within(pixel < pixels, lane < channels, VEC)
        g = read(places(gate, pixel * gate_step, lane, VEC), mask, REAL)
        v = read(places(value, pixel * value_step, lane, VEC), mask, REAL)
        d = read(places(dout, pixel * dout_step, lane, VEC), mask, REAL)
        share = tl.sigmoid(g)
        silu = g * share
        write(places(dgate, pixel * dgate_step, lane, VEC), d * v * share * (1.0 + g - silu), mask)
        write(places(dvalue, pixel * dvalue_step, lane, VEC), d * silu, mask)
