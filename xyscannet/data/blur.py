"""Physically based blur: what a moving camera, and moving objects, do to a sharp photograph during one exposure.

The exposure lasts 1. The sharp target is the scene at its middle, so blurred and sharp pixels correspond even where
the path is curved. All randomness is drawn by `sample_blur`; `render` only computes, item by item independently.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from . import camera, motion
from .exposure import BlurParameters, render

__all__ = ["STRENGTHS", "BlurConfig", "BlurParameters", "render", "sample_blur"]

Range = tuple[float, float]
Share = Annotated[float, Field(ge=0, le=1)]

STRENGTHS: dict[str, Range] = {"small": (2.0, 6.0), "medium": (6.0, 14.0), "strong": (14.0, 30.0)}
"""Lengths of the camera's path in pixels, for validation."""

_REACH = 0.6  # largest distance from the middle position, as a share of the longest path
_SUPPORT = 3  # pixels beyond the farthest sample that bicubic interpolation may read


class BlurConfig(BaseModel):
    """Distribution of blurs. Lengths in pixels on the sensor, noise in electrons, shares in [0, 1].

    Ranges are (low, high), drawn log-uniformly unless said otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path_px: Range = (1.5, 25.0)
    """Length of the camera's path, averaged over the image's centre and corners; middle lengths are favoured."""
    sharp_share: Share = 0.08
    """Inputs left as they are: no motion, noise, highlights or JPEG."""
    focal_px: Range = (700.0, 3000.0)
    principal_offset_px: float = Field(400.0, ge=0)
    """The optical axis lies at most this far from the image's centre on either axis (uniform)."""
    roll_ratio: Range = (0.2, 3.0)
    """Roll angle relative to pitch and yaw."""
    shift_ratio: float = Field(0.15, ge=0)
    """Translation relative to the path that pitch and yaw cause, at most (uniform from 0)."""
    curvature: float = Field(1.6, ge=0)
    """Largest weight of the path's curved part; the weight is this times a squared uniform number."""
    jitter_share: Share = 0.1
    jitter: Range = (0.5, 1.5)
    """Weight of fast shaking where there is any."""
    object_share: Share = 0.25
    object_px: Range = (2.0, 16.0)
    """Path of a moving object relative to the scene; the camera's own path is then shortened at random."""
    object_camera: Share = 0.0
    """Least share of the camera's path that is left where an object moves (uniform from here to 1)."""
    object_size: Range = (0.12, 0.4)
    """Radius of the object relative to the image's short side."""
    object_edge_px: Range = (1.0, 5.0)
    gamma_share: Share = 0.3
    """Images averaged exactly as encoded, and not beyond white, as frames of a video are."""
    linear_share: Share = 0.35
    """Images averaged exactly in linear light; the remaining ones have a response between the two."""
    highlight_share: Share = 0.5
    highlight_gain: Range = (1.5, 8.0)
    """Light of white pixels relative to white."""
    noise_share: Share = 0.8
    full_well: Range = (4000.0, 40000.0)
    """Photo-electrons at white."""
    dim_share: Share = 0.12
    """Of the noisy images, those of dim scenes."""
    dim_full_well: Range = (400.0, 4000.0)
    read_noise: Range = (1.0, 4.0)
    """Electrons, RMS."""
    jpeg_share: Share = 0.4
    jpeg_quality: Range = (70.0, 98.0)
    """Uniform, whole numbers."""
    step_px: float = Field(1.0, gt=0, le=2)
    """Largest distance between neighbouring sub-frames."""

    @model_validator(mode="after")
    def _check(self) -> BlurConfig:
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and not 0 < value[0] <= value[1] < math.inf:
                raise ValueError(f"{name}: the range {value} must be positive and ascending")
        if self.gamma_share + self.linear_share > 1:
            raise ValueError("gamma_share and linear_share must not exceed 1 together")
        if self.jpeg_quality[0] < 1 or self.jpeg_quality[1] > 100:
            raise ValueError("jpeg_quality must lie in 1..100")
        return self

    @classmethod
    def preset(cls, strength: str, **changes: Any) -> BlurConfig:
        """The distribution for validation: one of `STRENGTHS`, which every image's camera path has."""
        if strength not in STRENGTHS:
            raise ValueError(f"unknown blur strength {strength!r}; known: {', '.join(STRENGTHS)}")
        low, high = STRENGTHS[strength]
        settings: dict[str, Any] = {"path_px": (low, high), "object_px": (low, high)}
        settings |= {"sharp_share": 0.0, "object_camera": 1.0}
        return cls(**{**settings, **changes})

    @property
    def margin(self) -> int:
        """Pixels of the scene needed beyond each side of a rendered image."""
        reach = self.path_px[1] + (self.object_px[1] if self.object_share else 0.0)
        return math.ceil(_REACH * reach) + _SUPPORT


def sample_blur(
    config: BlurConfig,
    batch: int,
    height: int,
    width: int,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> BlurParameters:
    """Draw one blur for each of `batch` images of height x width pixels.

    Everything is drawn on the generator's device (the CPU without one) and then moved to `device`, so that a CPU
    generator gives the same blurs everywhere.
    """
    source = generator.device if generator is not None else torch.device("cpu")
    double = {"dtype": torch.float64, "device": source}

    def uniform(*shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator, **double)

    def logarithmic(limits: Range, position: Tensor | None = None) -> Tensor:
        position = uniform() if position is None else position
        return limits[0] * (limits[1] / limits[0]) ** position

    sharp = uniform() < config.sharp_share
    focal = logarithmic(config.focal_px)
    principal = (2 * uniform(2) - 1) * config.principal_offset_px
    jitter = logarithmic(config.jitter) * (uniform() < config.jitter_share)
    curvature = config.curvature * uniform() ** 2
    tilt = motion.smooth_path(curvature, jitter, 2, generator)
    roll = motion.smooth_path(curvature, jitter, 1, generator) * logarithmic(config.roll_ratio).view(-1, 1, 1)
    slide = motion.smooth_path(curvature, jitter, 2, generator) * (config.shift_ratio * uniform()).view(
        -1, 1, 1
    )
    length = logarithmic(config.path_px, (uniform() + uniform()) / 2) * ~sharp

    moving = (uniform() < config.object_share) & ~sharp
    left = config.object_camera + (1 - config.object_camera) * uniform()
    length = torch.where(moving, length * left, length)
    drift = motion.smooth_path(curvature, torch.zeros_like(jitter), 2, generator)
    drift_length = logarithmic(config.object_px) * moving
    drift = drift * (drift_length / motion.lengths(drift[:, :, None])[:, 0].clamp_min(1e-9)).view(-1, 1, 1)
    drift = drift * _within(motion.distances(drift), _REACH * config.object_px[1])

    side = min(height, width)
    shape = torch.cat(
        (
            (uniform(2) - 0.5) * torch.tensor([width, height], **double),
            (logarithmic(config.object_size) * side * moving)[:, None],
            logarithmic(config.object_edge_px)[:, None],
            uniform(3) * torch.tensor([0.25, 0.15, 0.1], **double),
            uniform(3) * 2 * math.pi,
        ),
        1,
    )

    angles, shift = torch.cat((tilt, roll), -1), slide * focal.view(-1, 1, 1)
    scale = (length / focal).view(-1, 1, 1)
    for _ in range(3):  # the tracks are nearly linear in the scale
        points = motion.tracks(
            motion.homographies(angles * scale, shift * scale, focal, principal), height, width
        )
        measured = motion.lengths(points).mean(1)
        scale = scale * torch.where(length > 0, length / measured.clamp_min(1e-9), 0).view(-1, 1, 1)
    points = motion.tracks(
        motion.homographies(angles * scale, shift * scale, focal, principal), height, width
    )
    away = motion.distances(points - points[:, motion.MIDDLE, None]).amax(-1)  # (B, T)
    scale = scale * _within(away, _REACH * config.path_px[1])

    kind, between = uniform(), 1 + (camera.SRGB_EXPONENT - 1) * uniform()
    gamma, linear = kind < config.gamma_share, kind >= 1 - config.linear_share
    exponent = torch.where(gamma, 1.0, torch.where(linear, camera.SRGB_EXPONENT, between))
    bright = (uniform() < config.highlight_share) & ~gamma & ~sharp
    noisy, dim = (uniform() < config.noise_share) & ~sharp, uniform() < config.dim_share
    well = torch.where(dim, logarithmic(config.dim_full_well), logarithmic(config.full_well)) * noisy
    compressed = (uniform() < config.jpeg_share) & ~sharp
    low, high = config.jpeg_quality
    parameters = BlurParameters(
        height=height,
        width=width,
        step_px=config.step_px,
        angles=angles * scale,
        shift=shift * scale,
        focal=focal,
        principal=principal,
        object_shift=drift,
        object_shape=shape,
        exponent=exponent.float(),
        gain=torch.where(bright, logarithmic(config.highlight_gain), 1.0).float(),
        full_well=well.float(),
        read_noise=logarithmic(config.read_noise).float(),
        noise_seed=(uniform() * 2**53).long(),
        quality=torch.round(low + (high - low) * uniform()).float() * compressed,
    )
    return parameters.to(device)


def _within(distances: Tensor, limit: float) -> Tensor:
    """Factor (B, 1, 1), at most 1, that keeps distances (B, T) below the limit."""
    return (limit / distances.amax(1).clamp_min(1e-9)).clamp(max=1).view(-1, 1, 1)
