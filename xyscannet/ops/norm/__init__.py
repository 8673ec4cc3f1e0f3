"""Layer normalisation over the channels of each pixel, in one pass over channels-last memory, forward and backward.

The definition is `layer_norm_reference`. The kernels compute in float32 (float64 for float64 tensors) whatever the
stored type and keep nothing for the backward but the input. Parameter gradients are summed in two stages, in an order
that depends only on the sizes.
"""

from __future__ import annotations

from torch import Tensor

from xyscannet.ops.backends import own_backend
from xyscannet.ops.norm import operator
from xyscannet.ops.norm.reference import layer_norm_reference

__all__ = ["layer_norm", "layer_norm_reference"]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalises the channels of every pixel: x (B, C, H, W), weight and bias (C,) -> (B, C, H, W), channels-last.

    Statistics are float32 (float64 for float64) whatever the type of x, which is also the type of the result.
    Raises ValueError where the shapes do not fit.
    """
    if x.dim() != 4 or not x.shape[1:2] == weight.shape == bias.shape:
        found = ", ".join(str(tuple(each.shape)) for each in (x, weight, bias))
        raise ValueError(f"x, weight and bias have shapes {found}, expected (B, C, H, W) and twice (C,)")
    backend = own_backend(x.device.type)
    if backend == "reference":
        return layer_norm_reference(x, weight.to(x.dtype), bias.to(x.dtype), eps).to(x.dtype)
    return operator.layer_norm(x, weight, bias, eps, backend)
