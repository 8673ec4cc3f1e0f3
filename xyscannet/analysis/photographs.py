"""Crops of photographs as inputs of an analysis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xyscannet.data.pairs import image_files
from xyscannet.errors import ConfigError, InputError
from xyscannet.images import Photo, read


@dataclass(frozen=True, eq=False)
class Crop:
    """A square of a photograph, (1, 3, side, side) float32 RGB in [0, 1], and where it lies, in pixels."""

    path: Path
    top: int
    left: int
    image: Tensor


def find_photographs(sources: Sequence[Path | str]) -> list[Path]:
    """The files among the sources, and the images in the folders among them, sorted within each.

    Raises:
        ConfigError: a source is not there, or a folder holds no image.
    """
    found: list[Path] = []
    for source in map(Path, sources):
        files = image_files(source) if source.is_dir() else [source] if source.is_file() else None
        if files is None:
            raise ConfigError(f"{source} is neither a photograph nor a folder of photographs")
        if not files:
            raise ConfigError(f"the folder {source} holds no photograph")
        found += files
    return found


def crops(
    paths: Sequence[Path],
    side: int,
    count: int,
    seed: int = 0,
    failed: Callable[[InputError], None] | None = None,
) -> list[Crop]:
    """`count` crops of the photographs: of each the centre first, then, where more are wanted, places by the seed.

    With more photographs than `count`, every so many-th is taken.

    Args:
        failed: hears of each photograph that cannot be read or is too small, whose crops are then missing; by
            default it raises.

    Raises:
        InputError: no photograph could be used.
    """
    if len(paths) > count:
        paths = [paths[place * len(paths) // count] for place in range(count)]
    found: list[Crop] = []
    for index, path in enumerate(paths):
        wanted = len(range(index, count, len(paths)))
        try:
            found += _crops(path, side, wanted, np.random.default_rng([seed, index]))
        except InputError as error:
            if failed is None:
                raise
            failed(error)
    if not found:
        raise InputError("none of the photographs could be used")
    return found


def as_image(photo: Photo) -> Tensor:
    """(1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(photo.to_float()).permute(2, 0, 1)[None].contiguous()


def _crops(path: Path, side: int, count: int, random: np.random.Generator) -> list[Crop]:
    photo = read(path)
    free = photo.height - side, photo.width - side
    if min(free) < 0:
        raise InputError(
            f"{path}: {photo.width}×{photo.height} pixels are fewer than a crop of {side}×{side}"
        )
    places = [(free[0] // 2, free[1] // 2)]
    places += [
        (int(random.integers(free[0] + 1)), int(random.integers(free[1] + 1))) for _ in range(count - 1)
    ]
    image = as_image(photo)
    return [
        Crop(path, top, left, image[:, :, top : top + side, left : left + side].clone())
        for top, left in places
    ]
