"""Causal depth-wise 1-D convolution along rows and columns of feature maps, and along plain sequences."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from xyscannet.ops.arguments import expect_alike, owned
from xyscannet.ops.backends import own_backend
from xyscannet.ops.causal_conv1d import reference
from xyscannet.ops.causal_conv1d.operator import conv1d
from xyscannet.ops.selective_scan import check_directions

__all__ = ["causal_conv1d_fn", "slice_conv1d"]


def _run(x, weight, bias, activation, directions: str, channels_first: bool) -> Tensor:
    if activation not in (None, "silu", "swish"):
        raise ValueError(f"activation '{activation}' is unknown; known are None, 'silu' and 'swish'")
    channels = x.shape[4]
    if weight.dim() != 2 or weight.shape[0] != channels or not weight.shape[1]:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected ({channels}, width)")
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}, expected ({channels},)")
    backend = own_backend(x.device.type)
    if backend == "reference":
        return reference.conv(x, weight, bias, activation is not None, directions.split(","))
    return conv1d(x, weight, bias, activation is not None, directions, backend, channels_first)


def slice_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = "silu",
    directions: Sequence[str] = ("x", "y"),
) -> Tensor:
    """Causal depth-wise convolution of every row or column of a channels-last feature map.

    x: (B, H, W, K, E), any strides; weight: (E, width); bias: (E,); activation None or "silu". Branch k runs along
    directions[k] ("x", "-x", "y", "-y") and sees only steps before its own. Returns (B, H, W, K, E) contiguous in
    x's dtype; the sums are float32 (float64 if x is). Raises ValueError where shapes, devices or names do not
    fit, TypeError for what is no real tensor.
    """
    expect_alike(x=x, weight=weight, optional={"bias": bias})
    if x.dim() != 5:
        raise ValueError(f"x must be (B, H, W, K, E), not {tuple(x.shape)}")
    return _run(x, weight, bias, activation, check_directions(directions, x.shape[3]), False)


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    seq_idx: Tensor | None = None,
) -> Tensor:
    """Causal depth-wise convolution with the shapes of causal-conv1d, whose callers give the activation by name.

    x: (B, D, L); weight: (D, width); bias: (D,); activation None, "silu" or "swish". Returns (B, D, L) in x's dtype.
    Raises ValueError where shapes, devices or the activation do not fit and for a seq_idx, TypeError for what is no
    real tensor.
    """
    if seq_idx is not None:
        raise ValueError("causal_conv1d_fn takes no seq_idx: give each sequence a row of the batch")
    expect_alike(x=x, weight=weight, optional={"bias": bias})
    if x.dim() != 3:
        raise ValueError(f"x must be (B, D, L), not {tuple(x.shape)}")
    image = x.transpose(1, 2)[:, None, :, None]  # (B, 1, L, 1, D)
    return owned(_run(image, weight, bias, activation, "x", True)[:, 0, :, 0].transpose(1, 2))
