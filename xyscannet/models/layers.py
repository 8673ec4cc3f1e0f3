"""Building blocks without a scan: normalisation, feed-forward, resampling.

Feature maps are (B, C, H, W) tensors in channels-last memory; `.permute(0, 2, 3, 1)` of one is a free view.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xyscannet.models.plain import plain, without_bias
from xyscannet.ops.convolution import pointwise_conv, spatial_conv
from xyscannet.ops.depthwise import depthwise_halves, depthwise_silu_gate
from xyscannet.ops.norm import layer_norm


@without_bias
class Pointwise(nn.Conv2d):
    """A 1x1 convolution: (B, C, H, W) -> (B, O, H, W)."""

    def __init__(self, channels_in: int, channels_out: int, bias: bool = False) -> None:
        super().__init__(channels_in, channels_out, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return pointwise_conv(x, self.weight, self.bias)


def pointwise(channels_in: int, channels_out: int) -> Pointwise:
    """A 1x1 convolution without bias."""
    return Pointwise(channels_in, channels_out)


@plain
class Spatial(nn.Conv2d):
    """A 3x3 convolution that keeps the size (zero padding): (B, C, H, W) -> (B, O, H, W)."""

    def __init__(self, channels_in: int, channels_out: int, bias: bool = False) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return spatial_conv(x, self.weight, self.bias)


def spatial(channels_in: int, channels_out: int) -> Spatial:
    """A 3x3 convolution without bias."""
    return Spatial(channels_in, channels_out)


@without_bias
class Depthwise(nn.Conv2d):
    """A depth-wise 3x3 convolution without bias that keeps the size (zero padding), and takes its halves apart.

    (B, 2C, H, W) -> twice (B, C, H, W), or with `gated` `silu(first) * second`, (B, C, H, W).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels, bias=False)

    def forward(self, x: Tensor, gated: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        return (depthwise_silu_gate if gated else depthwise_halves)(x, self.weight)


@plain
class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of each pixel: (B, C, H, W) -> (B, C, H, W).

    Weight and bias per channel, biased variance, eps 1e-5; float32 statistics whatever the type of the input.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


@plain
class GDFN(nn.Module):
    """Gated depth-wise feed-forward network (Restormer's, with SiLU): (B, C, H, W) -> (B, C, H, W).

    1x1 convolution to twice the hidden width, 3x3 depth-wise, `silu(first) * second`, 1x1 back.
    """

    def __init__(self, channels: int, expansion: float = 1.0) -> None:
        super().__init__()
        hidden = round(channels * expansion)
        self.project_in = pointwise(channels, 2 * hidden)
        self.dwconv = Depthwise(2 * hidden)
        self.project_out = pointwise(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dwconv(self.project_in(x), gated=True)  # (B, h, H, W)
        return self.project_out(x)  # (B, C, H, W)


class Downsample(nn.Module):
    """Halves the size (bilinear, corners not aligned) and doubles the channels: c -> 2c by a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = spatial(channels, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        # At a factor of exactly 1/2 bilinear sampling is the mean of 2x2 pixels.
        return self.conv(F.avg_pool2d(x, 2))


class Upsample(nn.Module):
    """Doubles the size (bilinear, corners not aligned) and halves the channels: c -> c/2 by a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = spatial(channels, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.conv(x)
