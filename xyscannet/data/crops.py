"""Crops of pairs on the disk: blurred and sharp images cut, flipped and turned alike.

Crop i depends on the seed and i alone, so a run can be resumed or repeated exactly.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xyscannet import images
from xyscannet.data.sets import Dataset, Sample
from xyscannet.errors import ConfigError, InputError

_log = logging.getLogger("xyscannet")
_STREAM = 0x9A125  # keeps these random numbers apart from those of `photos.Crops` with the same seed


class PairedCrops:
    """Random crops of the pairs of data sets; a set is drawn by its weight, then one of its pairs evenly.

    Decoded images are kept in memory, 3 bytes a pixel, until `cache_megapixels` are; those beyond are decoded each
    time. Pairs smaller than `smallest` are left out with a warning.

    Raises ConfigError for a set without usable pairs, InputError for a pair of two sizes or an unreadable file.
    """

    def __init__(
        self,
        sets: Sequence[tuple[Dataset, float]],
        *,
        seed: int,
        smallest: int,
        cache_megapixels: float = float("inf"),
    ) -> None:
        self.sets = [(dataset, _usable(dataset, smallest)) for dataset, _ in sets]
        weights = np.array([weight for _, weight in sets], float)
        self._bounds = np.cumsum(weights / weights.sum())
        self._seed, self._limit = seed, cache_megapixels * 1e6
        self._cache: dict[Path, np.ndarray] = {}
        self._held, self._lock = 0, threading.Lock()

    def crop(self, index: int, size: int) -> tuple[np.ndarray, np.ndarray, str]:
        """Crop number `index`: blurred and sharp (size, size, 3) uint8 RGB, and which file it is cut from."""
        random = np.random.Generator(np.random.Philox(key=[self._seed ^ _STREAM << 32, index]))
        chosen = min(int(np.searchsorted(self._bounds, random.random(), "right")), len(self.sets) - 1)
        samples = self.sets[chosen][1]
        sample = samples[random.integers(len(samples))]
        blur, sharp = self._image(sample.blur), self._image(sample.sharp)
        height, width = blur.shape[:2]
        y, x = int(random.integers(height - size + 1)), int(random.integers(width - size + 1))
        turns, flipped = int(random.integers(4)), bool(random.integers(2))
        found = []
        for image in (blur, sharp):
            part = np.rot90(image[y : y + size, x : x + size], turns)
            found.append(np.ascontiguousarray(part[:, ::-1] if flipped else part))
        return found[0], found[1], f"{sample.blur} [x {x}, y {y}, {size} px]"

    def _image(self, path: Path) -> np.ndarray:
        image = self._cache.get(path)
        if image is None:
            image = images.read(path).rgb
            if image.dtype == np.uint16:
                image = np.round(image / 257).astype(np.uint8)
            pixels = image.shape[0] * image.shape[1]
            with self._lock:
                if path not in self._cache and self._held + pixels <= self._limit:
                    self._cache[path] = image
                    self._held += pixels
        return image


def _usable(dataset: Dataset, smallest: int) -> list[Sample]:
    kept, small = [], 0
    for sample in dataset.samples:
        if sample.sharp is None:
            raise ConfigError(
                f"{dataset.title} in {dataset.root} has no sharp images; it cannot be trained on"
            )
        if min(check_sizes(sample)) < smallest:
            small += 1
        else:
            kept.append(sample)
    if not kept:
        raise ConfigError(f"{dataset.root} holds no pair of at least {smallest}x{smallest} pixels")
    if dataset.problems:
        _log.warning(
            "%s in %s: %s; `xyscan data check` lists all %d problems",
            dataset.title,
            dataset.root,
            dataset.problems[0],
            len(dataset.problems),
        )
    if small:
        _log.warning("%d pairs of %s are smaller than %d pixels and left out", small, dataset.root, smallest)
    return kept


def check_sizes(sample: Sample) -> tuple[int, int]:
    """Width and height of both images of a pair. Raises InputError where they differ, or a file is no image."""
    sizes = [_size(path) for path in (sample.blur, sample.sharp)]
    if sizes[0] != sizes[1]:
        raise InputError(f"{sample.blur} and {sample.sharp} differ in size: {sizes[0]} and {sizes[1]}")
    return sizes[0]


def _size(path: Path) -> tuple[int, int]:
    """Width and height, upright."""
    info = images.probe(path)
    return info.width, info.height
