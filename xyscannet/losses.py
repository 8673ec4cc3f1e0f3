"""Losses between restored and sharp images, in float32 whatever the inputs' type."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

_TAPS = (0.05, 0.25, 0.4, 0.25, 0.05)


def charbonnier(x: Tensor, y: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean of sqrt((x - y)^2 + eps^2) (Charbonnier et al. 1994). Any equal shapes; a float32 scalar."""
    return torch.sqrt((x.float() - y.float()).square() + eps * eps).mean()


def _smooth(image: Tensor) -> Tensor:
    """5-tap Gaussian along both axes, borders replicated."""
    channels = image.shape[1]
    taps = torch.tensor(_TAPS, dtype=image.dtype, device=image.device)
    image = F.pad(image, (2, 2, 2, 2), mode="replicate")
    image = F.conv2d(image, taps.view(1, 1, 1, 5).expand(channels, 1, 1, 5), groups=channels)
    return F.conv2d(image, taps.view(1, 1, 5, 1).expand(channels, 1, 5, 1), groups=channels)


def laplacian(image: Tensor) -> Tensor:
    """Finest level of the Laplacian pyramid of image (B, C, H, W) (Burt and Adelson 1983).

    The image less its smoothed version of every second pixel, brought back by zero-insertion (x4) and smoothing.
    """
    coarse = torch.zeros_like(image)
    coarse[..., ::2, ::2] = _smooth(image)[..., ::2, ::2] * 4
    return image - _smooth(coarse)


def edge(x: Tensor, y: Tensor, eps: float = 1e-3) -> Tensor:
    """Charbonnier distance of the finest Laplacian levels of x and y (B, C, H, W)."""
    with torch.autocast(x.device.type, enabled=False):
        return charbonnier(laplacian(x.float()), laplacian(y.float()), eps)


class LossConfig(BaseModel):
    """Weights of the training loss; a weight of 0 leaves its term out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    charbonnier: float = Field(1.0, ge=0)
    edge: float = Field(0.05, ge=0)
    eps: float = Field(1e-3, gt=0)


class DeblurLoss(nn.Module):
    """Weighted sum of the configured terms.

    forward(restored, sharp), both (B, 3, H, W) in [0, 1], returns the total and each term's unweighted, detached value.
    """

    def __init__(self, config: LossConfig | None = None) -> None:
        super().__init__()
        self.config = config or LossConfig()
        if not (self.config.charbonnier or self.config.edge):
            raise ValueError("every weight of the loss is 0")

    def forward(self, restored: Tensor, sharp: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if restored.shape != sharp.shape:
            raise ValueError(
                f"restored {tuple(restored.shape)} and sharp {tuple(sharp.shape)} differ in shape"
            )
        config, terms = self.config, {}
        if config.charbonnier:
            terms["charbonnier"] = charbonnier(restored, sharp, config.eps)
        if config.edge:
            terms["edge"] = edge(restored, sharp, config.eps)
        total = sum(getattr(config, name) * value for name, value in terms.items())
        return total, {name: value.detach() for name, value in terms.items()}
