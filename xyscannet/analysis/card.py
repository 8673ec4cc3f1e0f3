"""What a network does to photographs of each strength of shake, to sharp ones, and beside classical methods."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from xyscannet import images
from xyscannet.analysis import classical
from xyscannet.data.blur import STRENGTHS, BlurConfig, render, sample_blur
from xyscannet.data.kernels import centre_kernels
from xyscannet.data.pairs import image_files
from xyscannet.errors import ConfigError
from xyscannet.metrics import distortion, registry
from xyscannet.metrics.base import Metric
from xyscannet.metrics.pixels import rgb8

SHARP = "sharp"
BLURRED = "blurred"

Restore = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Scene:
    """A pair (H, W, 3) uint8 and the kernel (k, k) that the blur has at its centre."""

    name: str
    blur: np.ndarray
    sharp: np.ndarray
    kernel: np.ndarray


@dataclass(frozen=True)
class Row:
    """A method's figures on one strength of shake.

    Attributes:
        strength: of `STRENGTHS`, or "sharp" for sharp pictures restored.
        setting: of a classical method: the one with the best mean PSNR on these very pictures.
        values: mean of each metric, by name.
        worst: the least PSNR of a picture ("sharp"), or the least gain over the blurred one, in dB.
        examples: the first pictures, restored and sharp, (H, W, 3) uint8.
    """

    strength: str
    method: str
    setting: str
    images: int
    values: dict[str, float]
    worst: float
    examples: tuple[tuple[np.ndarray, np.ndarray], ...] = ()


def scenes(photos: str | Path, strength: str, *, crop: int | None, seed: int) -> list[Scene]:
    """Every photograph below a folder that is large enough: its central crop (None: all of it), blurred.

    Raises:
        ConfigError: there is no such folder, or no photograph in it is large enough.
    """
    folder = Path(photos)
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; name a folder of sharp photographs")
    blur, found = BlurConfig.preset(strength), []
    m = blur.margin
    for path in image_files(folder):
        rgb = rgb8(images.read(path).rgb)
        room = [size - 2 * m for size in rgb.shape[:2]]
        height, width = room if crop is None else (crop, crop)
        if min(room) < 16 or room[0] < height or room[1] < width:
            continue
        top, left = (room[0] - height) // 2, (room[1] - width) // 2
        rgb = np.ascontiguousarray(rgb[top : top + height + 2 * m, left : left + width + 2 * m])
        name = path.relative_to(folder).as_posix()
        digest = hashlib.sha256(f"{seed} {strength} {name}".encode(errors="surrogateescape")).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        parameters = sample_blur(blur, 1, height, width, generator)
        blurred, sharp = (_picture(image) for image in render(_tensor(rgb), parameters))
        found.append(Scene(name, blurred, sharp, centre_kernels(parameters)[0]))
    if not found:
        size = f"{(crop or 16) + 2 * m} pixels on each side"
        raise ConfigError(f"no photograph in {folder} has {size}, which {strength} blur needs")
    return found


def measure(
    restorers: dict[str, Restore],
    photos: str | Path,
    *,
    crop: int | None = 512,
    seed: int = 2024,
    metrics: Sequence[str] = ("psnr", "ssim", "lpips-alex"),
    keep: int = 1,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Row]:
    """Rows strength by strength: the blurred pictures, the classical methods, the restorers; then sharp pictures.

    A restorer maps (1, 3, H, W) in [0, 1] to the same. `keep` pictures of each row are kept as examples.

    Raises:
        ConfigError, UnavailableError, InputError: of `scenes`, of the metrics and of the classical methods.
    """
    measures = registry.build_all(metrics)
    baselines = classical.methods()
    sharp: list[np.ndarray] = []
    for strength in STRENGTHS:
        tell(f"{strength}: blurring")
        taken = scenes(photos, strength, crop=crop, seed=seed)
        sharp = sharp or [scene.sharp for scene in taken]
        yield _row(strength, BLURRED, "", [scene.blur for scene in taken], taken, measures, keep)
        for method, settings in baselines.items():
            tell(f"{strength}: {method}")
            setting, restored = _best(settings, taken)
            yield _row(strength, method, setting, restored, taken, measures, keep)
        for method, restore in restorers.items():
            tell(f"{strength}: {method}")
            restored = [_restored(restore, scene.blur) for scene in taken]
            yield _row(strength, method, "", restored, taken, measures, keep)
    for method, restore in restorers.items():
        tell(f"sharp pictures: {method}")
        restored = [_restored(restore, image) for image in sharp]
        least = min(_psnr(image, target) for image, target in zip(restored, sharp))
        values = _means(measures, restored, sharp)
        examples = tuple(zip(restored[:keep], sharp))
        yield Row(SHARP, method, "", len(sharp), values, least, examples)


def _row(
    strength: str,
    method: str,
    setting: str,
    restored: Sequence[np.ndarray],
    taken: Sequence[Scene],
    measures: Sequence[Metric],
    keep: int,
) -> Row:
    sharp = [scene.sharp for scene in taken]
    gains = [
        _psnr(image, scene.sharp) - _psnr(scene.blur, scene.sharp) for image, scene in zip(restored, taken)
    ]
    values = _means(measures, restored, sharp)
    return Row(strength, method, setting, len(taken), values, min(gains), tuple(zip(restored[:keep], sharp)))


def _means(
    measures: Sequence[Metric], restored: Sequence[np.ndarray], sharp: Sequence[np.ndarray]
) -> dict[str, float]:
    """Means over the pictures; a PSNR of equal ones counts as 100 dB."""
    pairs = list(zip(restored, sharp))
    return {
        measure.name: float(np.mean([min(measure.update(image, target), 100.0) for image, target in pairs]))
        for measure in measures
    }


def _best(settings: dict[str, classical.Method], taken: Sequence[Scene]) -> tuple[str, list[np.ndarray]]:
    """The setting with the best mean PSNR on these pictures, which favours the method, and what it makes of them."""

    def quality(made: tuple[str, list[np.ndarray]]) -> float:
        return float(np.mean([_psnr(image, scene.sharp) for image, scene in zip(made[1], taken)]))

    made = (
        (name, [method(scene.blur, scene.kernel) for scene in taken]) for name, method in settings.items()
    )
    return max(made, key=quality)


def _psnr(image: np.ndarray, sharp: np.ndarray) -> float:
    return min(distortion.psnr(image, sharp), 100.0)


def _restored(restore: Restore, image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return _picture(restore(_tensor(image)))


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def _picture(image: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray((image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())
