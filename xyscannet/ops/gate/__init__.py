"""`silu(gate) * value`, the gate of GDFN and VSSM, in one pass over channels-last memory, forward and backward.

The definition is `silu_gate_reference`. The kernels compute in float32 (float64 for float64 tensors) whatever the
stored type.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xyscannet.ops.backends import own_backend
from xyscannet.ops.gate import operator
from xyscannet.ops.gate.reference import silu_gate_reference

__all__ = ["silu_gate", "silu_gate_reference", "silu_mul"]


def silu_gate(x: Tensor) -> Tensor:
    """`silu(first half) * second half` of the channels: (B, 2C, H, W) -> (B, C, H, W), channels-last.

    Raises ValueError where there are no halves.
    """
    if x.dim() != 4 or x.shape[1] % 2:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, 2C, H, W)")
    backend = own_backend(x.device.type)
    if backend == "reference":
        return silu_mul(*x.chunk(2, dim=1))
    return operator.silu_gate(x, backend)


def silu_mul(gate: Tensor, value: Tensor) -> Tensor:
    """`silu(gate) * value` for two maps (B, C, H, W) of any strides; the result is channels-last.

    Raises ValueError where the shapes do not fit.
    """
    if gate.dim() != 4 or gate.shape != value.shape:
        raise ValueError(f"a map {tuple(value.shape)} cannot be gated by {tuple(gate.shape)}")
    backend = own_backend(value.device.type)
    if backend == "reference":
        return silu_gate_reference(gate, value).to(value.dtype, memory_format=torch.channels_last)
    return operator.silu_mul(gate, value, backend)
