"""Depth-wise 3x3 convolution of channels-last maps, plain or with GDFN's gate, in one pass, forward and backward."""

from __future__ import annotations

from torch import Tensor

from xyscannet.ops.backends import own_backend
from xyscannet.ops.channels_last import kernels_read
from xyscannet.ops.depthwise import reference
from xyscannet.ops.depthwise.operator import depthwise

__all__ = ["depthwise_conv", "depthwise_halves", "depthwise_silu_gate"]


def depthwise_conv(x: Tensor, weight: Tensor) -> Tensor:
    """3x3 convolution of every channel by itself, zero padding: x (B, C, H, W), weight (C, 1, 3, 3) -> (B, C, H, W).

    Sums are float32 (float64 for float64) whatever the type of x, which is also the type of the result.
    Raises ValueError where the shapes do not fit.
    """
    return _run(x, weight, False)


def depthwise_halves(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of the channels of `depthwise_conv(x, weight)`: (B, 2C, H, W) -> twice (B, C, H, W).

    On the CPU each has memory of its own, which a convolution after it would otherwise copy.
    Raises ValueError where the shapes do not fit or the number of channels is odd.
    """
    _check(x, weight, True)
    if x.device.type != "cpu":
        return _run(x, weight, False).chunk(2, dim=1)
    halves = zip(x.chunk(2, dim=1), weight.chunk(2), strict=True)
    first, second = (_run(part, taps, False) for part, taps in halves)
    return first, second


def depthwise_silu_gate(x: Tensor, weight: Tensor) -> Tensor:
    """`silu(first half) * second half` of the channels of `depthwise_conv(x, weight)`: (B, 2C, H, W) -> (B, C, H, W).

    Raises ValueError where the shapes do not fit or the number of channels is odd.
    """
    return _run(x, weight, True)


def _check(x: Tensor, weight: Tensor, halved: bool) -> None:
    if x.dim() != 4 or weight.shape != (x.shape[1], 1, 3, 3):
        raise ValueError(f"x has shape {tuple(x.shape)}, weight {tuple(weight.shape)}, expected (C, 1, 3, 3)")
    if halved and x.shape[1] % 2:
        raise ValueError(f"{x.shape[1]} channels have no halves")


def _run(x: Tensor, weight: Tensor, gated: bool) -> Tensor:
    _check(x, weight, gated)
    backend = own_backend(x.device.type)
    if backend == "triton" or (backend == "cpu" and kernels_read(x)):
        return depthwise(x, weight, gated, backend)
    return (reference.depthwise_silu_gate if gated else reference.depthwise_conv)(x, weight)
