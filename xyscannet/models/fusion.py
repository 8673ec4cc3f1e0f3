"""Cross-level feature fusion at the skips (Section 3.4): KLFF, MIMO-UNet's AFF, or none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xyscannet.models.layers import pointwise


def resize_nearest(x: Tensor, like: Tensor) -> Tensor:
    """x (B, C, h, w) at the height and width of `like`, by nearest neighbour."""
    if x.shape[2:] == like.shape[2:]:
        return x
    return F.interpolate(x, size=like.shape[2:], mode="nearest")


def kl_gate(other: Tensor, current: Tensor, gate: str) -> Tensor:
    """sigmoid(KL(other, current)) with KL = p (log p - log q), p = sigmoid(current), q = sigmoid(other) (Eq. 6).

    Both (B, C, H, W). `gate="element"` gives an attention value for each element; `gate="mean"` averages the
    divergence over each image first and gives (B, 1, 1, 1).
    """
    divergence = torch.sigmoid(current) * (F.logsigmoid(current) - F.logsigmoid(other))
    if gate == "mean":
        divergence = divergence.mean(dim=(1, 2, 3), keepdim=True)
    return torch.sigmoid(divergence)


class KLFF(nn.Module):
    """KL-divergence-based fusion: `conv_out(concat(x', g1 * n1' + g2 * n2'))`.

    Args:
        widths: channels of the current level and of the two others, (C, C1, C2).
        gate: "element" or "mean", see `kl_gate`.
    """

    def __init__(self, widths: tuple[int, int, int], gate: str = "element") -> None:
        super().__init__()
        channels, first, second = widths
        self.gate = gate
        self.conv = pointwise(channels, channels)
        self.conv_n1 = pointwise(first, channels)
        self.conv_n2 = pointwise(second, channels)
        self.conv_out = pointwise(2 * channels, channels)

    def forward(self, current: Tensor, first: Tensor, second: Tensor) -> Tensor:
        x = self.conv(current)  # (B, C, H, W)
        fused = None
        for conv, other in ((self.conv_n1, first), (self.conv_n2, second)):
            n = self._project(conv, other, current)  # (B, C, H, W)
            n = kl_gate(n, x, self.gate) * n
            fused = n if fused is None else fused + n
        return self.conv_out(torch.cat([x, fused], dim=1))

    @staticmethod
    def _project(conv: nn.Conv2d, other: Tensor, current: Tensor) -> Tensor:
        """Resized and projected; a pixel-wise map and nearest neighbour commute, so the smaller size is projected."""
        if other.shape[2] < current.shape[2]:
            return resize_nearest(conv(other), current)
        return conv(resize_nearest(other, current))


class AFF(nn.Module):
    """MIMO-UNet's asymmetric fusion: concat all levels, 1x1 convolution, GELU, 3x3 convolution (with biases)."""

    def __init__(self, widths: tuple[int, int, int], gate: str = "element") -> None:
        super().__init__()
        channels = widths[0]
        self.conv1 = nn.Conv2d(sum(widths), channels, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, current: Tensor, first: Tensor, second: Tensor) -> Tensor:
        levels = [current, resize_nearest(first, current), resize_nearest(second, current)]
        return self.conv2(F.gelu(self.conv1(torch.cat(levels, dim=1))))


class NoFusion(nn.Module):
    """A plain skip: the level's own encoder output."""

    def __init__(self, widths: tuple[int, int, int], gate: str = "element") -> None:
        super().__init__()

    def forward(self, current: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return current


FUSIONS: dict[str, type[nn.Module]] = {"klff": KLFF, "aff": AFF, "none": NoFusion}
