"""Layer normalisation of pixels as it is defined, in plain torch; any device and type."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`(x - mean) / sqrt(variance + eps) * weight + bias` over the channels of x (B, C, H, W), biased variance."""
    x = x.permute(0, 2, 3, 1)
    return F.layer_norm(x, (x.shape[-1],), weight, bias, eps).permute(0, 3, 1, 2)


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> None:
    """Fill `out` (B, C, H, W)."""
    out.copy_(layer_norm_reference(x, weight.to(x.dtype), bias.to(x.dtype), eps))


def backward(
    x: Tensor, weight: Tensor, grad: Tensor, eps: float, grads: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Fill `grads`, the gradients of x, weight and bias."""
    shape, weights = [x.shape[1]], (weight.to(x.dtype), torch.zeros_like(weight, dtype=x.dtype))
    pixels, upper = x.permute(0, 2, 3, 1), grad.permute(0, 2, 3, 1)
    _, mean, scale = torch.native_layer_norm(pixels, shape, *weights, eps)
    dx, dweight, dbias = torch.ops.aten.native_layer_norm_backward(
        upper, pixels, shape, mean, scale, *weights, [True, True, True]
    )
    for gradient, found in zip(grads, (dx.permute(0, 3, 1, 2), dweight, dbias), strict=True):
        gradient.copy_(found)
