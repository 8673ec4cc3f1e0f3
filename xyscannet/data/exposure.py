"""One exposure of a scene: sub-frames along the motion, averaged in the camera's response, then noise and JPEG."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from xyscannet.ops.exposure import Exposure, gathered

from . import camera, motion

_BAND_PIXELS = 2**20  # larger images are rendered in bands of about so many pixels


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

    def _map(self, function: Callable[[Tensor], Tensor]) -> BlurParameters:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return BlurParameters(**{k: function(v) if isinstance(v, Tensor) else v for k, v in values.items()})

    def to(self, device: torch.device | str) -> BlurParameters:
        return self._map(lambda value: value.to(device))

    def select(self, index: slice | Tensor) -> BlurParameters:
        return self._map(lambda value: value[index])

    @classmethod
    def joined(cls, parts: Sequence[BlurParameters]) -> BlurParameters:
        """The items of all parts, one after the other. Raises ValueError for parts of different sizes."""
        first = parts[0]
        if len({(part.height, part.width, part.step_px) for part in parts}) > 1:
            raise ValueError("blurs of different image sizes or steps cannot be joined")
        values = {field.name: getattr(first, field.name) for field in fields(first)}
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = torch.cat([getattr(part, name) for part in parts])
        return cls(**values)

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
                "read_noise_electrons": round(self.read_noise[i].item(), 3) if self.full_well[i] > 0 else 0.0,
                "jpeg_quality": int(self.quality[i].item()),
            }
            found.append(item)
        return found


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
        # What decides is looked at on the CPU: a GPU would have to be waited for each time.
        parameters = parameters.to("cpu")
        target = scene[..., m : m + height, m : m + width].contiguous()
        bands = _bands(height, width)
        blur = torch.empty_like(target)
        for top, bottom in bands:
            exposed = _expose(scene[..., top : bottom + 2 * m, :], parameters, top, bottom)
            seeds = parameters.noise_seed + top
            noisy = camera.add_noise(exposed, parameters.full_well, parameters.read_noise, seeds)
            blur[..., top:bottom, :] = noisy
        result = torch.empty_like(blur)
        for top, bottom in bands:
            above = min(
                top, 16
            )  # a neighbouring row of blocks, for the chroma interpolated across the border
            decoded = camera.jpeg(blur[..., top - above : bottom + 16, :], parameters.quality)
            result[..., top:bottom, :] = camera.to_8_bit(decoded[..., above : above + bottom - top, :])
        return result, target


def _bands(height: int, width: int) -> list[tuple[int, int]]:
    """Rows from, to of the bands an image is rendered in: whole rows of JPEG blocks."""
    rows = height if height * width <= 2 * _BAND_PIXELS else max(16, _BAND_PIXELS // width // 16 * 16)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


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
    index = torch.tensor(order)
    times, moving = times[index], moving[index]
    behind = torch.nonzero(moving)[:, 0]
    view = _View(parameters, top, bottom, scene.shape[-2:], device)
    gain, exponent = parameters.gain[index], camera.sent(parameters.exponent[index], device)
    encoded = scene[camera.sent(index, device)]
    light = camera.to_light(encoded, exponent)
    excess = camera.highlight_excess(encoded, light, camera.sent(gain, device)) if (gain > 1).any() else None
    if excess is not None and device.type == "cpu" and not excess.any():
        excess = None
    masks = drift = None
    if len(behind):
        drift = view.to_grid(motion.at_times(drifting[index][behind], times[behind]))
        shape = camera.sent(parameters.object_shape[index][behind].float(), device)
        masks = _masks(shape, *view.scene_points())
    total = gathered(
        Exposure(
            light=light,
            excess=excess,
            bright=tuple((gain > 1).tolist()),
            counts=tuple(counts[item] for item in order),
            transforms=view.to_grid(motion.at_times(path[index], times)),
            weights=camera.sent(weights[index].float(), device),
            behind=tuple(behind.tolist()),
            masks=masks,
            object_transforms=drift,
            size=(bottom - top, parameters.width),
            origin=view.origin,
        )
    )
    encoded = camera.to_encoded(total.clamp(max=1), exponent)
    return encoded[camera.sent(torch.argsort(index), device)]


class _View:
    """Maps rows top..bottom of an image into the scene's rows with margin (`size`)."""

    def __init__(
        self, parameters: BlurParameters, top: int, bottom: int, size: tuple[int, int], device: torch.device
    ) -> None:
        height, width = parameters.height, parameters.width
        self.origin = -(width - 1) / 2, top - (height - 1) / 2  # the first pixel, about the image's centre
        self.middle = (top + bottom - 1) / 2 - (height - 1) / 2  # of these rows, about the image's centre
        self.size, self.device = size, device
        self._to_grid = torch.tensor(  # from pixels about the image's centre to what `grid_sample` takes
            [[2 / size[1], 0, 0], [0, 2 / size[0], -2 * self.middle / size[0]], [0, 0, 1]],
            dtype=torch.float64,
        )

    def to_grid(self, transforms: Tensor) -> Tensor:
        """The same on the device, to what `grid_sample` takes, of homographies (..., 3, 3) about the centre."""
        return camera.sent((self._to_grid @ transforms).float(), self.device)

    def scene_points(self) -> tuple[Tensor, Tensor]:
        """x (W',) and y (h', 1) of the scene's pixels about the image's centre."""
        scene_height, scene_width = self.size
        x = torch.arange(scene_width, device=self.device, dtype=torch.float32) - (scene_width - 1) / 2
        y = torch.arange(scene_height, device=self.device, dtype=torch.float32)[:, None]
        return x, y - (scene_height - 1) / 2 + self.middle


def _masks(shape: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Soft masks (b, 1, h', w') of objects (b, 10) at x (w'), y (h', 1) about the image's centre.

    The outline is a circle whose radius varies in 2, 3 and 4 waves; without an object the mask is 0.
    """
    dx, dy = x - shape[:, 0].view(-1, 1, 1), y - shape[:, 1].view(-1, 1, 1)
    angle = torch.atan2(dy, dx)
    radius = torch.ones_like(angle)
    for wave in range(3):
        size, phase = shape[:, 4 + wave].view(-1, 1, 1), shape[:, 7 + wave].view(-1, 1, 1)
        radius = radius + size * torch.cos((wave + 2) * angle + phase)
    radius = radius * shape[:, 2].view(-1, 1, 1)
    mask = torch.sigmoid(2 * (radius - torch.hypot(dx, dy)) / shape[:, 3].view(-1, 1, 1))
    return (mask * (shape[:, 2] > 0).view(-1, 1, 1))[:, None]
