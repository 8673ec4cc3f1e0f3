"""Losses between restored and sharp images, in float32 whatever the inputs' type."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from xyscannet.errors import InputError, UnavailableError

_TAPS = (0.05, 0.25, 0.4, 0.25, 0.05)


def charbonnier(x: Tensor, y: Tensor, eps: float = 1e-3) -> Tensor:
    """Mean of sqrt((x - y)^2 + eps^2) (Charbonnier et al. 1994). Any equal shapes; a float32 scalar."""
    return torch.sqrt((x.float() - y.float()).square() + eps * eps).mean()


@lru_cache(maxsize=8)
def _taps(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept on the device: a copy to a GPU would end the recording of a CUDA graph."""
    with torch.inference_mode(False):
        return torch.tensor(_TAPS, dtype=dtype, device=device)


def _smooth(image: Tensor) -> Tensor:
    """5-tap Gaussian along both axes, borders replicated."""
    channels, taps = image.shape[1], _taps(image.dtype, image.device)
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


_VGG_WIDTHS = (64, 64, 0, 128, 128, 0, 256)  # 0: a 2x2 max pooling
_VGG_FILE, _VGG_ADDRESS = "vgg19-dcbb9e9d.pth", "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLURRED = 0.01
"""Mean |sharp - blur| above which a position counts as blurred in the contrastive loss."""


class VGG19Features(nn.Module):
    """VGG-19 up to the ReLU of conv3_1, its first 12 layers (Simonyan and Zisserman 2015), frozen.

    forward maps (B, 3, H, W) in [0, 1], H and W at least 4, to (B, 256, H // 4, W // 4).
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _VGG_WIDTHS:
            if width:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    @classmethod
    def from_file(cls, path: str | Path | None = None) -> VGG19Features:
        """With torchvision's ImageNet weights: of `path`, else of torch's cache; nothing is downloaded.

        Raises UnavailableError where there are none, InputError for a file that holds no VGG-19.
        """
        found = Path(path) if path else Path(torch.hub.get_dir()) / "checkpoints" / _VGG_FILE
        if not found.is_file():
            raise UnavailableError(
                f"the contrastive loss needs VGG-19's weights and {found} does not exist; fetch {_VGG_ADDRESS} to "
                "that place, or name a copy with --perceptual-weights FILE, or set loss.contrastive=0"
            )
        try:
            state = torch.load(found, map_location="cpu", weights_only=True)
            network = cls()
            wanted = network.features.state_dict()
            given = {name: state.get(f"features.{name}", state.get(name)) for name in wanted}
            network.features.load_state_dict({k: v.float() for k, v in given.items()})
        except Exception as error:
            raise InputError(f"{found} does not hold the weights of torchvision's VGG-19: {error}") from error
        return network

    def forward(self, image: Tensor) -> Tensor:
        return self.features((image - self.mean) / self.std)


def contrastive(restored: Tensor, sharp: Tensor, blur: Tensor, features: nn.Module) -> Tensor:
    """Distance to the sharp image over the distance to the blurred one, in feature space (Tsai et al. 2022).

    |f(restored) - f(sharp)| / (|f(restored) - f(blur)| + 1e-7), averaged over the channels and over the positions
    that are blurred, then over the images; an image without a blurred position contributes 0.

    Args:
        restored, sharp, blur: (B, 3, H, W) in [0, 1].
        features: maps images to feature maps of a quarter of their size.
    """
    with torch.autocast(restored.device.type, enabled=False):
        restored, sharp, blur = restored.float(), sharp.float(), blur.float()
        with torch.no_grad():
            towards, away = features(sharp), features(blur)
            moved = (sharp - blur).abs().mean(1, keepdim=True) > BLURRED
            mask = F.interpolate(moved.float(), size=towards.shape[-2:], mode="nearest")  # (B, 1, H/4, W/4)
        found = features(restored)
        ratio = (found - towards).abs() / ((found - away).abs() + 1e-7)
        ratio = ratio.mean(1, keepdim=True)  # (B, 1, H/4, W/4)
        count = mask.sum((1, 2, 3))
        # where, not a product: what lies outside the mask may be as large as 1e7
        per_image = torch.where(mask > 0, ratio, 0.0).sum((1, 2, 3)) / count.clamp_min(1)
        return per_image.mean()


class LossConfig(BaseModel):
    """Weights of the training loss; a weight of 0 leaves its term out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    charbonnier: float = Field(1.0, ge=0)
    edge: float = Field(0.05, ge=0)
    contrastive: float = Field(0.0, ge=0)
    """Contrastive loss on VGG-19; the paper's weight is 0.0005."""
    lpips: float = Field(0.0, ge=0)
    """LPIPS on `lpips_backbone`, by the package lpips."""
    lpips_backbone: Literal["alex", "vgg"] = "alex"
    perceptual_weights: str | None = None
    """File of torchvision's VGG-19; null for the one in torch's cache."""
    eps: float = Field(1e-3, gt=0)

    @model_validator(mode="after")
    def _check(self) -> LossConfig:
        if not any(getattr(self, name) for name in TERMS):
            raise ValueError("every weight of the loss is 0")
        return self


TERMS = ("charbonnier", "edge", "contrastive", "lpips")


class DeblurLoss(nn.Module):
    """Weighted sum of the configured terms.

    forward(restored, sharp, blur), each (B, 3, H, W) in [0, 1], returns the total and each term's unweighted,
    detached value. `blur` is needed by the contrastive term alone.

    Args:
        config: the terms' weights.
        lpips: network of two images in [-1, 1] to their distance, needed where `config.lpips` is not 0.

    Raises UnavailableError where VGG-19's weights are needed and absent.
    """

    def __init__(self, config: LossConfig | None = None, lpips: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config or LossConfig()
        self.features = (
            VGG19Features.from_file(self.config.perceptual_weights) if self.config.contrastive else None
        )
        if self.config.lpips and lpips is None:
            raise ValueError("the LPIPS term needs its network")
        self.distance = lpips.requires_grad_(False).eval() if lpips is not None else None

    def forward(
        self, restored: Tensor, sharp: Tensor, blur: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if restored.shape != sharp.shape or (blur is not None and blur.shape != sharp.shape):
            raise ValueError(
                f"restored {tuple(restored.shape)} and sharp {tuple(sharp.shape)}, and blur, differ in shape"
            )
        config, terms = self.config, {}
        if config.charbonnier:
            terms["charbonnier"] = charbonnier(restored, sharp, config.eps)
        if config.edge:
            terms["edge"] = edge(restored, sharp, config.eps)
        if config.contrastive:
            if blur is None:
                raise ValueError("the contrastive term needs the blurred image")
            terms["contrastive"] = contrastive(restored, sharp, blur, self.features)
        if config.lpips:
            with torch.autocast(restored.device.type, enabled=False):
                terms["lpips"] = self.distance(2 * restored.float() - 1, 2 * sharp.float() - 1).mean()
        total = sum(getattr(config, name) * value for name, value in terms.items())
        return total, {name: value.detach() for name, value in terms.items()}
