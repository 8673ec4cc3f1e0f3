"""The fixed validation set, its figures, and per-image records over folder pairs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from xyscannet import images
from xyscannet.data.blur import BlurConfig, render, sample_blur
from xyscannet.data.pairs import find_pairs
from xyscannet.errors import ConfigError
from xyscannet.metrics import distortion
from xyscannet.training.config import ValidationConfig

WORSE_DB = 0.2


@dataclass(frozen=True)
class ValidationSet:
    """Blurred and sharp crops, uint8 (3, H, W) each, made once; `names` says of which photo."""

    names: tuple[str, ...]
    blur: tuple[torch.Tensor, ...]
    sharp: tuple[torch.Tensor, ...]

    @classmethod
    def from_folder(cls, folder: str | Path, config: ValidationConfig) -> ValidationSet:
        """The central crop of every photo (the first `config.images` by name), each with a blur of its own seed.

        The set does not depend on the blur trained with, so runs compare. Photos too small for the crop and the
        blur's margin are left out.

        Raises ConfigError where the folder holds no photo large enough.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ConfigError(f"the validation folder {folder} does not exist")
        paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in images.SUFFIXES)
        names, blurred, sharps = [], [], []
        for path in paths:
            name = path.relative_to(folder).as_posix()
            blur = BlurConfig.preset(config.strengths[len(names) % len(config.strengths)])
            made = _blurred_crop(path, name, config, blur)
            if made is None:
                continue
            names.append(name)
            blurred.append(made[0])
            sharps.append(made[1])
            if len(names) == config.images:
                break
        if not names:
            raise ConfigError(f"{folder} holds no photo of {config.crop} pixels and the margin of the blur")
        return cls(tuple(names), tuple(blurred), tuple(sharps))

    def __len__(self) -> int:
        return len(self.names)


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


def evaluate(
    model: nn.Module,
    validation: ValidationSet,
    *,
    device: str | torch.device = "cpu",
    precision: str = "fp32",
) -> dict[str, float]:
    """Mean figures of a network over a validation set, computed on 8-bit RGB.

    Keys: psnr, ssim, psnr_blur, ssim_blur; worse (number of images more than 0.2 dB below their input);
    psnr_sharp_input (the restored sharp image against itself); images.
    """
    records, kept = [], []
    for name, blur, sharp in zip(validation.names, validation.blur, validation.sharp, strict=True):
        records.append(_record(name, blur, sharp, _restore_8bit(model, blur, device, precision)))
        kept.append(psnr_8bit(_restore_8bit(model, sharp, device, precision), sharp))
    return {**summary(records), "psnr_sharp_input": float(np.mean(kept))}


def evaluate_pairs(
    restore: Callable[[torch.Tensor], torch.Tensor], folder: str | Path
) -> Iterator[ImageRecord]:
    """Figures on 8-bit RGB of every pair of a data set folder, whole images, one after the other.

    `restore` maps (1, 3, H, W) in [0, 1] to the restored image: a network, or `inference.restore` of one.
    """
    for pair in find_pairs(folder):
        blur, sharp = _tensor(images.read(pair.blur)), _tensor(images.read(pair.sharp))
        with torch.inference_mode():
            restored = _to_8bit(restore(blur[None].float() / 255)[0])
        yield _record(pair.name, blur, sharp, restored)


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
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        restored = model(x)
    return _to_8bit(restored[0])


def _blurred_crop(
    path: Path, name: str, config: ValidationConfig, blur: BlurConfig
) -> tuple[torch.Tensor, torch.Tensor] | None:
    side = config.crop + 2 * blur.margin
    photo = _tensor(images.read(path))
    top, left = (photo.shape[1] - side) // 2, (photo.shape[2] - side) // 2
    if top < 0 or left < 0:
        return None
    crop = photo[None, :, top : top + side, left : left + side].float() / 255
    digest = hashlib.sha256(f"{config.seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    parameters = sample_blur(blur, 1, config.crop, config.crop, generator)
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
