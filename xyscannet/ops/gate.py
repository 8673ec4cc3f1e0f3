"""`silu(gate) * value`, the gate of GDFN and VSSM, in one pass over channels-last memory, forward and backward.

The definition is `silu_gate_reference`. On the CPU both directions are compiled kernels that compute in float32
(float64 for float64 tensors) whatever the stored type; elsewhere, and for types the kernels do not read, the
definition runs.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xyscannet.ops.channels_last import describe, empty, kernels_read, real_type, rows
from xyscannet.ops.compiling import compiled
from xyscannet.ops.library import operator
from xyscannet.ops.simd import ITEM_SIZE, LANES, read_lanes, sigmoid, write_lanes
from xyscannet.ops.threads import run_tasks

_TASKS = 32


def silu_gate_reference(gate: Tensor, value: Tensor) -> Tensor:
    """silu(gate) * value."""
    return F.silu(gate) * value


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


def _forward_into(out: Tensor, gate: Tensor, value: Tensor) -> Tensor:
    if kernels_read(gate, value, out):
        _run(_forward, rows(gate), rows(value), rows(out))
        return out
    return out.copy_(silu_gate_reference(gate, value))


def _backward_into(both: Tensor, gate: Tensor, value: Tensor, grad: Tensor) -> Tensor:
    """Fills `both` (B, 2C, H, W) with the gradients of gate and of value."""
    dgate, dvalue = both.chunk(2, dim=1)
    if kernels_read(gate, value, grad, both):
        _run(_backward, rows(gate), rows(value), rows(grad), rows(dgate), rows(dvalue))
        return both
    gate, value, grad = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (gate, value, grad))
    s = torch.sigmoid(gate)
    dgate.copy_(grad * value * s * (1 + gate * (1 - s)))
    dvalue.copy_(grad * gate * s)
    return both


@operator("silu_gate")
def _silu_gate(x: Tensor) -> Tensor:
    return _forward_into(empty(x, x.shape[1] // 2), *x.chunk(2, dim=1))


@operator("silu_gate_backward")
def _silu_gate_backward(x: Tensor, grad: Tensor) -> Tensor:
    return _backward_into(empty(x, x.shape[1]), *x.chunk(2, dim=1), grad)


@operator("silu_mul")
def _silu_mul(gate: Tensor, value: Tensor) -> Tensor:
    return _forward_into(empty(value, value.shape[1]), gate, value)


@operator("silu_mul_backward")
def _silu_mul_backward(gate: Tensor, value: Tensor, grad: Tensor) -> Tensor:
    return _backward_into(empty(value, 2 * value.shape[1]), gate, value, grad)


_silu_gate.register_fake(lambda x: empty(x, x.shape[1] // 2))
_silu_gate_backward.register_fake(lambda x, grad: empty(x, x.shape[1]))
_silu_mul.register_fake(lambda gate, value: empty(value, value.shape[1]))
_silu_mul_backward.register_fake(lambda gate, value, grad: empty(value, 2 * value.shape[1]))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gate_gradient(ctx, grad: Tensor) -> Tensor:
    return _silu_gate_backward(*ctx.saved_tensors, grad)


def _mul_gradient(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
    gate, value = ctx.saved_tensors
    dgate, dvalue = _silu_mul_backward(gate, value, grad).chunk(2, dim=1)
    return dgate.to(gate.dtype), dvalue


_silu_gate.register_autograd(_gate_gradient, setup_context=_save)
_silu_mul.register_autograd(_mul_gradient, setup_context=_save)


def silu_gate(x: Tensor) -> Tensor:
    """`silu(first half) * second half` of the channels: (B, 2C, H, W) -> (B, C, H, W), channels-last."""
    return _silu_gate(x)


def silu_mul(gate: Tensor, value: Tensor) -> Tensor:
    """`silu(gate) * value` for two maps (B, C, H, W) of any strides; the result is channels-last."""
    return _silu_mul(gate, value)
