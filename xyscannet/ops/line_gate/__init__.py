"""The Inter-Scanner's gates: every row of half of the channels, and every column of the others, scaled by a sigmoid."""

from __future__ import annotations

from torch import Tensor

from xyscannet.ops.backends import own_backend
from xyscannet.ops.channels_last import kernels_read
from xyscannet.ops.line_gate import reference
from xyscannet.ops.line_gate.operator import line_gate as _line_gate

__all__ = ["line_gate"]


def line_gate(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """The first half of x's channels times sigmoid(down), row by row; the second times sigmoid(across), by columns.

    x: (B, C, H, W), any strides; down: (B, H, C/2); across: (B, W, C/2). Returns (B, C, H, W) in x's type;
    the kernels compute it in one pass in float32 (float64 for float64).

    Raises:
        ValueError: the shapes do not fit.
    """
    batch, channels, height, width = x.shape
    half = channels // 2
    if channels % 2 or down.shape != (batch, height, half) or across.shape != (batch, width, half):
        raise ValueError(f"{tuple(x.shape)} cannot be gated by {tuple(down.shape)} and {tuple(across.shape)}")
    backend = own_backend(x.device.type)
    if backend == "triton" or (backend == "cpu" and kernels_read(x)):
        return _line_gate(x, down, across, backend)
    return reference.line_gate(x, down, across)
