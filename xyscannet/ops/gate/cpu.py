"""`silu(gate) * value` on the CPU: compiled kernels, one pass forward and one backward."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from xyscannet.ops.channels_last import describe, real_type, rows
from xyscannet.ops.compiling import compiled
from xyscannet.ops.simd import ITEM_SIZE, LANES, read_lanes, sigmoid, write_lanes
from xyscannet.ops.threads import run_tasks

_TASKS = 32


@compiled
def _forward(tensors, channels, pixels, tasks, like, first, last):
    """Tensors gate, value, out as (address, code, bytes from pixel to pixel)."""
    (gate, gate_code, gate_step), (value, value_code, value_step), (out, out_code, out_step) = tensors
    gate_size, value_size, out_size = ITEM_SIZE[gate_code], ITEM_SIZE[value_code], ITEM_SIZE[out_code]
    for p in range(first * pixels // tasks, last * pixels // tasks):
        for e in range(0, channels, LANES):
            some = channels - e
            g = read_lanes(like, gate_code, gate + p * gate_step + e * gate_size, some)
            v = read_lanes(like, value_code, value + p * value_step + e * value_size, some)
            write_lanes(out_code, out + p * out_step + e * out_size, g * sigmoid(g) * v, some)


@compiled
def _backward(tensors, channels, pixels, tasks, like, first, last):
    """Tensors gate, value, gradient of out, gradient of gate, gradient of value."""
    (gate, gate_code, gate_step), (value, value_code, value_step) = tensors[0], tensors[1]
    (grad, grad_code, grad_step) = tensors[2]
    (dgate, dgate_code, dgate_step), (dvalue, dvalue_code, dvalue_step) = tensors[3], tensors[4]
    gate_size, value_size, grad_size = ITEM_SIZE[gate_code], ITEM_SIZE[value_code], ITEM_SIZE[grad_code]
    dgate_size, dvalue_size = ITEM_SIZE[dgate_code], ITEM_SIZE[dvalue_code]
    for p in range(first * pixels // tasks, last * pixels // tasks):
        for e in range(0, channels, LANES):
            some = channels - e
            g = read_lanes(like, gate_code, gate + p * gate_step + e * gate_size, some)
            v = read_lanes(like, value_code, value + p * value_step + e * value_size, some)
            d = read_lanes(like, grad_code, grad + p * grad_step + e * grad_size, some)
            s = sigmoid(g)
            silu = g * s
            slope = s * (1.0 + g - silu)
            write_lanes(dgate_code, dgate + p * dgate_step + e * dgate_size, d * v * slope, some)
            write_lanes(dvalue_code, dvalue + p * dvalue_step + e * dvalue_size, d * silu, some)


def _run(kernel, *maps: Tensor) -> None:
    pixels, channels = maps[0].shape
    if pixels * channels == 0:
        return
    like = np.empty(0, real_type(maps[0]))
    tensors = tuple(describe(m) for m in maps)
    tasks = min(_TASKS, pixels)
    run_tasks(kernel, (tensors, channels, pixels, tasks, like), tasks, 8 * pixels * channels)


def forward(gate: Tensor, value: Tensor, out: Tensor) -> None:
    """Fill `out` (B, C, H, W), channels-last."""
    _run(_forward, rows(gate), rows(value), rows(out))


def backward(gate: Tensor, value: Tensor, grad: Tensor, grads: tuple[Tensor, Tensor]) -> None:
    """Fill `grads`, the gradients of gate and value, both channels-last."""
    _run(_backward, *map(rows, (gate, value, grad, *grads)))
