"""Linear maps of channels-last data."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def linear_channels_last(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T` over the last dimension: x (..., C) contiguous, weight (O, C) -> (..., O).

    On the CPU it runs as a 1x1 convolution: oneDNN's is several times faster than a matrix product for the
    few channels and many pixels of an image.
    """
    if x.device.type != "cpu":
        return F.linear(x, weight)
    pixels = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)  # (1, C, N, 1), channels-last
    out = F.conv2d(pixels, weight[:, :, None, None])  # (1, O, N, 1)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])
