"""The causal depth-wise convolution as it is defined, in plain torch; any device, differentiable by autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from xyscannet.ops.arguments import real_type
from xyscannet.ops.selective_scan.reference import from_rows, to_rows


def conv_rows(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool = False) -> Tensor:
    """out_t = f(bias + sum_j weight_j x_{t - width + 1 + j}) for every row; x (rows, L, E), weight (E, width)."""
    dtype = real_type(x)
    before = weight.shape[1]  # one more than is seen, so that no steps are a sequence too
    sequence = (x.flip(1) if reverse else x).to(dtype).transpose(1, 2)  # (rows, E, L)
    bias = None if bias is None else bias.to(dtype)
    y = F.conv1d(F.pad(sequence, (before, 0)), weight.to(dtype).unsqueeze(1), bias, groups=x.shape[2])
    y = (F.silu(y) if silu else y)[:, :, 1:].transpose(1, 2).to(x.dtype)
    return y.flip(1) if reverse else y


def conv(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, directions: Sequence[str]) -> Tensor:
    """The branches of (B, H, W, K, E) one after another."""
    outputs = []
    for k, way in enumerate(directions):
        y = conv_rows(to_rows(x, k, way), weight, bias, silu, way.startswith("-"))
        outputs.append(from_rows(y, x.shape, way))
    return torch.stack(outputs, 3)
