"""The fixed validation set, its figures, and per-image records over folder pairs."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import nn

from xyscannet import images
from xyscannet.data.blur import BlurConfig, render, sample_blur
from xyscannet.data.crops import check_sizes
from xyscannet.data.pairs import image_files
from xyscannet.data.sets import Dataset
from xyscannet.errors import ConfigError
from xyscannet.metrics import distortion
from xyscannet.models.strips import Strips, may_be_taken_apart
from xyscannet.training.config import TrainConfig, ValidationConfig
from xyscannet.training.processes import Processes
from xyscannet.training.samples import find_pairs

WORSE_DB = 0.2
SSIM_WINDOW = 11
"""Pixels that a picture to measure has on each side, at least."""
AT_ONCE = 2**21
"""Pixels, more than Full HD has, up to which a picture is restored at once; a larger one in strips."""
T = TypeVar("T")


class Validation(Protocol):
    """A fixed set to validate on; `sharp_input` says whether the sharp images are restored and measured too."""

    sharp_input: bool

    def __len__(self) -> int: ...

    def item(self, index: int) -> tuple[str, torch.Tensor, torch.Tensor]:
        """Name, blurred and sharp image, uint8 (3, H, W)."""


@dataclass(frozen=True)
class ValidationSet:
    """Blurred and sharp images made once and held in memory; `names` says of which photo."""

    names: tuple[str, ...]
    blur: tuple[torch.Tensor, ...]
    sharp: tuple[torch.Tensor, ...]
    sharp_input: bool = True

    @classmethod
    def from_folder(cls, folder: str | Path, config: ValidationConfig) -> ValidationSet:
        """The central crop, or the whole, of the photos of a folder, each with a blur of its own seed.

        The set does not depend on the blur trained with, so runs compare. Photos too small for the crop and the
        margin of the strongest blur are left out.

        Raises ConfigError where the folder holds no photo large enough, InputError for a file that is no image.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ConfigError(f"the validation folder {folder} does not exist")
        blurs = [BlurConfig.preset(strength) for strength in config.strengths]
        least = (config.crop or SSIM_WINDOW) + 2 * max(blur.margin for blur in blurs)
        paths = [path for path in image_files(folder) if _shorter_side(path) >= least]
        if not paths:
            raise ConfigError(
                f"{folder} holds no photo of at least {least} pixels on each side, a crop and the margins of the "
                "blur: lower validation.crop, or leave out the strongest of validation.strengths"
            )
        chosen = _spread(paths, config.images)
        names = tuple(path.relative_to(folder).as_posix() for path in chosen)
        made = [
            _blurred_crop(path, name, config, blur)
            for path, name, blur in zip(chosen, names, itertools.cycle(blurs))
        ]
        blurred, sharp = zip(*made)
        return cls(names, blurred, sharp)

    def __len__(self) -> int:
        return len(self.names)

    def item(self, index: int) -> tuple[str, torch.Tensor, torch.Tensor]:
        """Name, blurred and sharp image, uint8 (3, H, W)."""
        return self.names[index], self.blur[index], self.sharp[index]


class ValidationPairs:
    """Whole pairs of a data set, at most `limit` of them, read anew each time.

    Raises ConfigError where there are none or one is too small to measure, InputError for a pair of two sizes or a file
    that is no image.
    """

    sharp_input = False

    def __init__(self, dataset: Dataset, limit: int | None) -> None:
        self._samples = _spread(dataset.samples, limit)
        if not self._samples or any(sample.sharp is None for sample in self._samples):
            raise ConfigError(f"{dataset.root} holds no pairs to validate on")
        for sample in self._samples:
            width, height = check_sizes(sample)
            if min(width, height) < SSIM_WINDOW:
                raise ConfigError(
                    f"{sample.blur}: a picture of {width} x {height} pixels cannot be validated on: SSIM needs "
                    f"{SSIM_WINDOW} on each side; leave it out"
                )

    def __len__(self) -> int:
        return len(self._samples)

    def item(self, index: int) -> tuple[str, torch.Tensor, torch.Tensor]:
        """Name, blurred and sharp image, uint8 (3, H, W)."""
        sample = self._samples[index]
        return sample.name, _tensor(images.read(sample.blur)), _tensor(images.read(sample.sharp))


def validation_of(config: TrainConfig) -> Validation | None:
    """The set that a configuration names, None where it names none. Raises what the sets raise."""
    if config.validation.pairs is not None:
        return ValidationPairs(find_pairs(config.validation.pairs), config.validation.images)
    if config.data.validation:
        return ValidationSet.from_folder(config.data.validation, config.validation)
    return None


def _spread(items: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` of the items, spread evenly."""
    if limit is None or len(items) <= limit:
        return list(items)
    return [items[index * len(items) // limit] for index in range(limit)]


@dataclass(frozen=True)
class ImageRecord:
    """One image's figures on 8-bit RGB: dB for PSNR, SSIM in [-1, 1]."""

    name: str
    psnr_blur: float
    psnr: float
    ssim_blur: float
    ssim: float

    @property
    def worse(self) -> bool:
        """More than 0.2 dB below the blurred image."""
        return self.psnr < self.psnr_blur - WORSE_DB


@dataclass(frozen=True)
class Measured:
    """What validation found out about some images; `kept` is the PSNR in dB of each restored sharp image."""

    records: tuple[ImageRecord, ...]
    kept: tuple[float, ...] = ()

    def figures(self) -> dict[str, float]:
        """Means: psnr, ssim, psnr_blur, ssim_blur; worse (images more than 0.2 dB below their input); images.

        Where sharp images were restored, also psnr_sharp_input, their restored selves against themselves.
        """
        found = summary(list(self.records))
        return {**found, "psnr_sharp_input": float(np.mean(self.kept))} if self.kept else found


def evaluate(
    model: nn.Module,
    validation: Validation,
    *,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
    share: tuple[int, int] = (0, 1),
    keep: Callable[[str, torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None,
) -> Measured:
    """Restore whole images of a validation set and measure them on 8-bit RGB.

    Args:
        share: (i, n) measures every n-th image from the i-th on, as one of n processes.
        keep: is given name, blurred, restored and sharp image, uint8 (3, H, W), of each.
    """
    records, kept = [], []
    for index in range(share[0], len(validation), share[1]):
        name, blur, sharp = validation.item(index)
        restored = _restore_8bit(model, blur, device, precision)
        records.append(_record(name, blur, sharp, restored))
        if keep is not None:
            keep(name, blur, restored, sharp)
        if validation.sharp_input:
            kept.append(psnr_8bit(_restore_8bit(model, sharp, device, precision), sharp))
    return Measured(tuple(records), tuple(kept))


def evaluate_together(
    model: nn.Module,
    validation: Validation,
    processes: Processes,
    *,
    precision: str,
    keep: Callable[[str, torch.Tensor, torch.Tensor, torch.Tensor], None] | None = None,
) -> Measured:
    """`evaluate` shared among processes: each measures its images and is told of all; `keep` is given its own."""
    measured = processes.agree(
        lambda: evaluate(
            model,
            validation,
            device=processes.device,
            precision=precision,
            share=(processes.rank, processes.count),
            keep=keep,
        )
    )
    records, kept = (processes.gather(list(found)) for found in (measured.records, measured.kept))
    return Measured(tuple(records), tuple(kept))


def summary(records: list[ImageRecord]) -> dict[str, float]:
    """Means over records, with the number of images made worse by more than 0.2 dB."""
    keys = ("psnr", "ssim", "psnr_blur", "ssim_blur")
    means = {key: float(np.mean([getattr(record, key) for record in records])) for key in keys}
    return {**means, "worse": sum(record.worse for record in records), "images": len(records)}


def psnr_8bit(image: torch.Tensor, sharp: torch.Tensor) -> float:
    """PSNR in dB of two uint8 images; 100 where they are equal."""
    error = torch.mean((image.float() - sharp.float()) ** 2).item()
    return 100.0 if error == 0 else float(10 * np.log10(255.0**2 / error))


def _record(name: str, blur: torch.Tensor, sharp: torch.Tensor, restored: torch.Tensor) -> ImageRecord:
    target = _array(sharp)
    return ImageRecord(
        name,
        psnr_blur=psnr_8bit(blur, sharp),
        psnr=psnr_8bit(restored, sharp),
        ssim_blur=distortion.ssim(_array(blur), target),
        ssim=distortion.ssim(_array(restored), target),
    )


@torch.inference_mode()
def _restore_8bit(
    model: nn.Module, image: torch.Tensor, device: str | torch.device, precision: str
) -> torch.Tensor:
    device = torch.device(device)
    x = image[None].to(device).float() / 255
    in_strips = x[0, 0].numel() > AT_ONCE and may_be_taken_apart(model)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        restored = (Strips(model) if in_strips else model)(x)
    return _to_8bit(restored[0])


def _shorter_side(path: Path) -> int:
    info = images.probe(path)
    return min(info.width, info.height)


def _blurred_crop(
    path: Path, name: str, config: ValidationConfig, blur: BlurConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    photo = _tensor(images.read(path))
    room = (photo.shape[1] - 2 * blur.margin, photo.shape[2] - 2 * blur.margin)
    height, width = room if config.crop is None else (config.crop, config.crop)
    top, left = (room[0] - height) // 2, (room[1] - width) // 2
    crop = photo[None, :, top : top + height + 2 * blur.margin, left : left + width + 2 * blur.margin].float()
    crop = crop / 255
    digest = hashlib.sha256(f"{config.seed} {name}".encode(errors="surrogateescape")).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    parameters = sample_blur(blur, 1, height, width, generator)
    blurred, sharp = render(crop, parameters)
    return _to_8bit(blurred[0]), _to_8bit(sharp[0])


def _to_8bit(image: torch.Tensor) -> torch.Tensor:
    return (image.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().contiguous()


def _tensor(photo: images.Photo) -> torch.Tensor:
    rgb = photo.rgb
    if rgb.dtype == np.uint16:
        rgb = np.round(rgb / 257).astype(np.uint8)
    return torch.from_numpy(rgb).permute(2, 0, 1)


def _array(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()
