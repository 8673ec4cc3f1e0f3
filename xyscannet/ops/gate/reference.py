"""`silu(gate) * value` as it is defined, in plain torch; any device and type."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def silu_gate_reference(gate: Tensor, value: Tensor) -> Tensor:
    """silu(gate) * value."""
    return F.silu(gate) * value


def forward(gate: Tensor, value: Tensor, out: Tensor) -> None:
    """Fill `out` (B, C, H, W)."""
    out.copy_(silu_gate_reference(gate, value))


def backward(gate: Tensor, value: Tensor, grad: Tensor, grads: tuple[Tensor, Tensor]) -> None:
    """Fill `grads`, the gradients of gate and value."""
    dgate, dvalue = grads
    gate, value, grad = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (gate, value, grad))
    share = torch.sigmoid(gate)
    dgate.copy_(grad * value * share * (1 + gate * (1 - share)))
    dvalue.copy_(grad * gate * share)
