"""Convolutions that torch has, such that they run on oneDNN on every CPU.

oneDNN's 1x1 convolution is, for few channels and many pixels, faster than a matrix product. Left to itself, torch takes
oneDNN in float32 for sixteen images and more; for fewer only on several threads if the convolution is 1x1, and for a
single one only if it is not small. So rows pass as images: on one thread of AVX2 that is two thirds more speed for 24
channels, 7 % for 192. And one image is computed as it is among others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_IMAGES, _ELEMENTS = 16, 20480  # torch's bounds


def _left_out(x: Tensor) -> bool:
    """Whether oneDNN does not get a single image of the size of x."""
    return len(x) == 1 and x.numel() <= _ELEMENTS


def _is_real(x: Tensor) -> bool:
    """Others are traced or counted."""
    return type(x) is Tensor and not torch.compiler.is_compiling()


def _may_choose(x: Tensor) -> bool:
    return _is_real(x) and x.device.type == "cpu" and x.dtype == torch.float32


def _rows_help(x: Tensor, images: int, rows: int) -> bool:
    return images < _IMAGES <= rows and (torch.get_num_threads() == 1 or _left_out(x))


def pointwise_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """1x1 convolution: x (B, C, H, W) channels-last, weight (O, C, 1, 1), bias (O,) -> (B, O, H, W) channels-last."""
    batch, _, height, width = x.shape
    if not (_may_choose(x) and _rows_help(x, batch, batch * height)):
        return F.conv2d(x, weight, bias)
    rows = x.permute(0, 2, 3, 1).flatten(0, 1).unsqueeze(1)  # (B*H, 1, W, C)
    out = F.conv2d(rows.permute(0, 3, 1, 2), weight, bias)  # (B*H, O, 1, W)
    return out.permute(0, 2, 3, 1).reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def spatial_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """3x3 convolution with zero padding: x (B, C, H, W), weight (O, C, 3, 3), bias (O,) -> (B, O, H, W)."""
    if _may_choose(x) and _left_out(x):
        return F.conv2d(x.expand(2, -1, -1, -1), weight, bias, padding=1)[:1]
    return F.conv2d(x, weight, bias, padding=1)


def linear_channels_last(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T` over the last dimension: x (..., C) contiguous, weight (O, C) -> (..., O)."""
    if x.device.type != "cpu" or (_is_real(x) and not x.numel()):
        return F.linear(x, weight)
    images = x.shape[0] * x.shape[1] if x.dim() > 3 else 1  # `numel` would fix a traced batch
    images = images if _may_choose(x) and _rows_help(x, 1, images) else 1
    # Pixels in rows: of images one pixel wide oneDNN's backward takes up to twice as long.
    pixels = x.reshape(images, 1, -1, x.shape[-1]).permute(
        0, 3, 1, 2
    )  # (images, C, 1, pixels), channels-last
    out = F.conv2d(pixels, weight[:, :, None, None])
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])
