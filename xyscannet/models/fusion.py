"""Cross-level feature fusion at the skips (Section 3.4): KLFF, MIMO-UNet's AFF, or none."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xyscannet.models.layers import Pointwise, Spatial, pointwise
from xyscannet.ops.kl_gate import kl_gated_sum
from xyscannet.ops.kl_gate.reference import kl_gate, resize_nearest

__all__ = ["FUSIONS", "kl_gate", "resize_nearest"]


class KLFF(nn.Module):
    """KL-divergence-based fusion: `conv_out(concat(x', g1 * n1' + g2 * n2'))`.

    Current level (B, C, H, W) and the two others (B, C1, H1, W1), (B, C2, H2, W2) -> (B, C, H, W).

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
        x, n1, n2 = self.project(current, first, second)
        return self.merge(x, kl_gated_sum(x, n1, n2, self.gate))

    def project(self, current: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x' (B, C, H, W), n1' and n2' (B, C, H, W or smaller)."""
        x = self.conv(current)
        return x, self._project(self.conv_n1, first, x), self._project(self.conv_n2, second, x)

    def merge(self, x: Tensor, fused: Tensor) -> Tensor:
        return self.conv_out(torch.cat([x, fused], dim=1))

    @staticmethod
    def _project(conv: nn.Conv2d, other: Tensor, current: Tensor) -> Tensor:
        """Projected; a larger map is resized before it, a smaller one where it is read, which gives the same."""
        if other.shape[2] < current.shape[2]:
            return conv(other)
        return conv(resize_nearest(other, current))


class AFF(nn.Module):
    """MIMO-UNet's asymmetric fusion: concat all levels, 1x1 convolution, GELU, 3x3 convolution (with biases).

    Input, output and arguments as `KLFF`.
    """

    def __init__(self, widths: tuple[int, int, int], gate: str = "element") -> None:
        super().__init__()
        channels = widths[0]
        self.conv1 = Pointwise(sum(widths), channels, bias=True)
        self.conv2 = Spatial(channels, channels, bias=True)

    def forward(self, current: Tensor, first: Tensor, second: Tensor) -> Tensor:
        levels = [current, resize_nearest(first, current), resize_nearest(second, current)]
        return self.conv2(F.gelu(self.conv1(torch.cat(levels, dim=1))))


class NoFusion(nn.Module):
    """A plain skip: the level's own encoder output. Input, output and arguments as `KLFF`."""

    def __init__(self, widths: tuple[int, int, int], gate: str = "element") -> None:
        super().__init__()

    def forward(self, current: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return current


FUSIONS: dict[str, type[nn.Module]] = {"klff": KLFF, "aff": AFF, "none": NoFusion}
