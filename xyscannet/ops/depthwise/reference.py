"""The depth-wise convolution and its gated form in plain torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from xyscannet.ops.gate import silu_gate


def depthwise_conv(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, C, H, W), weight (C, 1, 3, 3) -> (B, C, H, W), zero padding."""
    return F.conv2d(x, weight, padding=1, groups=weight.shape[0])


def depthwise_silu_gate(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, 2C, H, W), weight (2C, 1, 3, 3) -> (B, C, H, W)."""
    return silu_gate(depthwise_conv(x, weight))
