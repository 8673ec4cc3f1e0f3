"""Physically based blur: what a moving camera, and moving objects, do to a sharp photograph during one exposure.

The exposure lasts 1. The sharp target is the scene at its middle, so blurred and sharp pixels correspond even where
the path is curved. All randomness is drawn by `sample_blur`; `render` only computes, item by item independently.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from . import camera, motion

Range = tuple[float, float]
Share = Annotated[float, Field(ge=0, le=1)]

STRENGTHS: dict[str, Range] = {"small": (2.0, 6.0), "medium": (6.0, 14.0), "strong": (14.0, 30.0)}
"""Lengths of the camera's path in pixels, for validation."""

_REACH = 0.6  # largest distance from the middle position, as a share of the longest path
_SUPPORT = 3  # pixels beyond the farthest sample that bicubic interpolation may read
_BAND_PIXELS = 2**20  # larger images are exposed in bands of about so many pixels


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
        """The distribution for validation: one of `STRENGTHS`, every image blurred."""
        if strength not in STRENGTHS:
            raise ValueError(f"unknown blur strength {strength!r}; known: {', '.join(STRENGTHS)}")
        low, high = STRENGTHS[strength]
        settings: dict[str, Any] = {"path_px": (low, high), "object_px": (low, high), "sharp_share": 0.0}
        return cls(**{**settings, **changes})

    @property
    def margin(self) -> int:
        """Pixels of the scene needed beyond each side of a rendered image."""
        reach = self.path_px[1] + (self.object_px[1] if self.object_share else 0.0)
        return math.ceil(_REACH * reach) + _SUPPORT


@dataclass(frozen=True)
class BlurParameters:
    """One drawn blur per item. Paths have `motion.STEPS` samples over the exposure, zero at its middle."""

    height: int
    width: int
    step_px: float
    angles: Tensor  # (B, T, 3) pitch, yaw, roll in radian
    shift: Tensor  # (B, T, 2) x, y in pixels
    focal: Tensor  # (B,) pixels
    principal: Tensor  # (B, 2) optical axis from the centre, x, y in pixels
    object_shift: Tensor  # (B, T, 2) relative to the scene, in pixels
    object_shape: (
        Tensor  # (B, 10) centre x, y, radius, edge in pixels (radius 0 = none); 3 waves: size, phase
    )
    exponent: Tensor  # (B,) of the response, 1 = averaged as encoded
    gain: Tensor  # (B,) light of white pixels
    full_well: Tensor  # (B,) electrons at white, 0 = no noise
    read_noise: Tensor  # (B,) electrons
    noise_seed: Tensor  # (B,) int64
    quality: Tensor  # (B,) of JPEG, 0 = none

    def __len__(self) -> int:
        return len(self.focal)

    def _map(self, function: Any) -> BlurParameters:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return BlurParameters(**{k: function(v) if isinstance(v, Tensor) else v for k, v in values.items()})

    def to(self, device: torch.device | str) -> BlurParameters:
        return self._map(lambda value: value.to(device))

    def select(self, index: slice | Tensor) -> BlurParameters:
        return self._map(lambda value: value[index])

    def transforms(self) -> Tensor:
        """Homographies (B, T, 3, 3) of the camera's motion, about the image's centre."""
        return motion.homographies(self.angles, self.shift, self.focal, self.principal)

    def describe(self) -> list[dict[str, Any]]:
        """Each item's parameters as plain numbers with units, for a manifest."""
        path = motion.lengths(motion.tracks(self.transforms(), self.height, self.width)).mean(1)
        spans = (self.angles.amax(1) - self.angles.amin(1)) * 1000
        objects = motion.lengths(self.object_shift[:, :, None])[:, 0]
        found = []
        for i in range(len(self)):
            item: dict[str, Any] = {
                "path_px": round(path[i].item(), 3),
                "focal_px": round(self.focal[i].item(), 1),
                "pitch_yaw_roll_range_mrad": [round(value, 3) for value in spans[i].tolist()],
                "object_path_px": round(objects[i].item(), 3),
                "response_exponent": round(self.exponent[i].item(), 4),
                "highlight_gain": round(self.gain[i].item(), 3),
                "full_well_electrons": round(self.full_well[i].item(), 1),
                "read_noise_electrons": round(self.read_noise[i].item(), 3),
                "jpeg_quality": int(self.quality[i].item()),
            }
            found.append(item)
        return found


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
    length = torch.where(moving, length * uniform(), length)
    drift = motion.smooth_path(curvature, torch.zeros_like(jitter), 2, generator)
    drift_length = logarithmic(config.object_px) * moving
    drift = drift * (drift_length / motion.lengths(drift[:, :, None])[:, 0].clamp_min(1e-9)).view(-1, 1, 1)
    drift = drift * _within(drift.norm(dim=-1), _REACH * config.object_px[1])

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
    away = (points - points[:, motion.MIDDLE, None]).norm(dim=-1).amax(-1)  # (B, T)
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


@torch.no_grad()
def render(sharp: Tensor, parameters: BlurParameters) -> tuple[Tensor, Tensor]:
    """Expose scenes sharp (B, 3, H + 2m, W + 2m) in [0, 1] to the blurs drawn for (H, W).

    Returns (blur, sharp), each (B, 3, H, W): the blurred images, rounded to 8 bits, and the scene in the middle of
    the exposure, which is the input's centre unchanged. `BlurConfig.margin` is the m at which every sample lies
    inside the input; beyond it the border is replicated. Raises ValueError for sizes that do not fit.
    """
    height, width = parameters.height, parameters.width
    m = (sharp.shape[-1] - width) // 2
    if sharp.dim() != 4 or sharp.shape != (len(parameters), 3, height + 2 * m, width + 2 * m) or m < 0:
        expected = f"({len(parameters)}, 3, {height} + 2m, {width} + 2m)"
        raise ValueError(f"sharp has shape {tuple(sharp.shape)}, not {expected}")
    with torch.autocast(sharp.device.type, enabled=False):
        scene = sharp.float()
        parameters = parameters.to(scene.device)
        target = scene[..., m : m + height, m : m + width].contiguous()
        if height * width <= 2 * _BAND_PIXELS:
            blur = _expose(scene, parameters, 0, height)
        else:
            rows = max(1, _BAND_PIXELS // width)
            blur = torch.empty_like(target)
            for top in range(0, height, rows):
                bottom = min(top + rows, height)
                blur[..., top:bottom, :] = _expose(
                    scene[..., top : bottom + 2 * m, :], parameters, top, bottom
                )
        blur = camera.add_noise(blur, parameters.full_well, parameters.read_noise, parameters.noise_seed)
        return camera.to_8_bit(camera.jpeg(blur, parameters.quality)), target


def _expose(scene: Tensor, parameters: BlurParameters, top: int, bottom: int) -> Tensor:
    """Rows top..bottom of the exposed, encoded images, from the same rows of the scene with its margin."""
    device = scene.device
    path = parameters.transforms()  # (B, T, 3, 3)
    moving = parameters.object_shape[:, 2] > 0
    drifting = motion.translations(parameters.object_shift) @ path
    tracks = [motion.tracks(p, parameters.height, parameters.width) for p in (path, drifting)]
    tracks[1] = torch.where(moving.view(-1, 1, 1, 1), tracks[1], tracks[0])
    counts, times, weights = motion.place_frames(torch.cat(tracks, 2), parameters.step_px)

    # Items with many sub-frames first: at sub-frame k those still exposed are the first ones of the batch.
    order = sorted(range(len(counts)), key=lambda item: -counts[item])
    counts = [counts[item] for item in order]
    index = torch.tensor(order, device=device)
    objects = [row for row, flag in enumerate(moving[index].tolist()) if flag]
    encoded, exponent = scene[index], parameters.exponent[index]
    light = camera.to_light(encoded, exponent)
    excess = camera.highlight_excess(encoded, light, parameters.gain[index])
    bright = bool(excess.any())
    times, weights = times[index], weights[index].float()
    matrices = motion.at_times(path[index], times)  # (B, N, 3, 3)
    size = scene.shape[-2:]
    view = _View(parameters.height, parameters.width, top, bottom, size, device)
    if objects:
        behind = torch.tensor(objects, device=device)
        object_matrices = motion.at_times(drifting[index][behind], times[behind])
        masks = _masks(parameters.object_shape[index][behind].float(), view)
        cutout = torch.cat((light[behind], masks), 1)  # (b, 4, H + 2m, W + 2m)
        cutout_excess = excess[behind]

    total = torch.zeros(len(order), 3, bottom - top, parameters.width, device=device)
    for k in range(counts[0]):
        active = sum(count > k for count in counts)
        grid = view.grid(matrices[:active, k])
        frame = _sample(light[:active], grid, "bicubic")
        if bright:
            frame += _sample(excess[:active], grid, "bilinear")
        shown = sum(row < active for row in objects)
        if shown:
            grid = view.grid(object_matrices[:shown, k])
            layer = _sample(cutout[:shown], grid, "bicubic")
            mask = layer[:, 3:].clamp(0, 1)
            front = layer[:, :3]
            if bright:
                front = front + _sample(cutout_excess[:shown], grid, "bilinear")
            rows = behind[:shown]
            frame[rows] = torch.lerp(frame[rows], front, mask)
        total[:active] += weights[:active, k].view(-1, 1, 1, 1) * frame
    encoded = camera.to_encoded(total.clamp(max=1), exponent)
    return encoded[torch.argsort(index)]


def _sample(images: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


class _View:
    """Maps output rows top..bottom of a height x width image into the scene's rows with margin (`size`)."""

    def __init__(
        self, height: int, width: int, top: int, bottom: int, size: tuple[int, int], device: torch.device
    ) -> None:
        self.x = torch.arange(width, device=device, dtype=torch.float32) - (width - 1) / 2
        self.y = torch.arange(top, bottom, device=device, dtype=torch.float32)[:, None] - (height - 1) / 2
        self.middle = (top + bottom - 1) / 2 - (height - 1) / 2  # of these rows, about the image's centre
        self.size = size

    def grid(self, transforms: Tensor) -> Tensor:
        """Sampling grid (A, h, W, 2) of homographies (A, 3, 3) about the image's centre."""
        scene_height, scene_width = self.size
        x, y, w = (
            transforms[:, row, 0].float().view(-1, 1, 1) * self.x
            + transforms[:, row, 1].float().view(-1, 1, 1) * self.y
            + transforms[:, row, 2].float().view(-1, 1, 1)
            for row in range(3)
        )
        return torch.stack((x / w * (2 / scene_width), (y / w - self.middle) * (2 / scene_height)), -1)

    def scene_points(self) -> tuple[Tensor, Tensor]:
        """x (W',) and y (h', 1) of the scene's pixels about the image's centre."""
        scene_height, scene_width = self.size
        x = torch.arange(scene_width, device=self.x.device, dtype=torch.float32) - (scene_width - 1) / 2
        y = torch.arange(scene_height, device=self.x.device, dtype=torch.float32)[:, None]
        return x, y - (scene_height - 1) / 2 + self.middle


def _masks(shape: Tensor, view: _View) -> Tensor:
    """Soft masks (b, 1, h', W') of objects (b, 10): a circle whose radius varies in 2, 3 and 4 waves."""
    x, y = view.scene_points()
    dx, dy = x - shape[:, 0].view(-1, 1, 1), y - shape[:, 1].view(-1, 1, 1)
    angle = torch.atan2(dy, dx)
    radius = torch.ones_like(angle)
    for wave in range(3):
        size, phase = shape[:, 4 + wave].view(-1, 1, 1), shape[:, 7 + wave].view(-1, 1, 1)
        radius = radius + size * torch.cos((wave + 2) * angle + phase)
    radius = radius * shape[:, 2].view(-1, 1, 1)
    return torch.sigmoid(2 * (radius - torch.hypot(dx, dy)) / shape[:, 3].view(-1, 1, 1))[:, None]
