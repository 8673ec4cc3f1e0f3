"""What the Inter-Scanner scans: the mean of every row of half of the channels, and of every column of the others."""

from __future__ import annotations

from torch import Tensor

from xyscannet.ops.backends import own_backend
from xyscannet.ops.channels_last import kernels_read
from xyscannet.ops.line_means import reference
from xyscannet.ops.line_means.operator import line_means as _line_means

__all__ = ["line_means"]


def line_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """The means of the rows of the first half of x's channels, and of the columns of the second half (Eq. 4).

    x: (B, C, H, W), any strides. Returns (B, H, C/2) and (B, W, C/2) in x's type. On the CPU one pass over x in
    float32 (float64 for float64); elsewhere plain torch.

    Raises:
        ValueError: the number of channels is odd, or there is no pixel.
    """
    if x.shape[1] % 2 or not x.shape[2] * x.shape[3]:
        raise ValueError(f"{tuple(x.shape)} has no halves, or no pixels, to take means of")
    if own_backend(x.device.type) == "cpu" and kernels_read(x):
        return _line_means(x, "cpu")
    return reference.line_means(x)
