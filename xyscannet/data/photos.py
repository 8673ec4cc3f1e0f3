"""Sharp photographs for training: decoded once into memory, cropped at random where they are sharp.

Sample i of a batch depends on the seed and its index alone, so a run can be resumed or repeated exactly.
"""

from __future__ import annotations

import logging
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from xyscannet.data.pairs import image_files
from xyscannet.errors import ConfigError, InputError
from xyscannet.images import SUFFIXES
from xyscannet.opencv import cv2

_log = logging.getLogger("xyscannet")

TILE = 256
SHARP_VARIANCE = 100.0
"""A tile counts as sharp from this variance of the 3x3 Laplacian of its 8-bit grey image."""

MOST_BYTES = 2**30  # of a photograph in an archive, where a sparse one takes no room
T = TypeVar("T")


def _encoded(sources: Iterable[str | Path]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of every image in the sources that is not hidden, in a fixed order."""
    for source in map(Path, sources):
        try:
            yield from _encoded_in(source)
        except OSError as error:
            raise InputError(f"{error.filename or source} cannot be read: {error.strerror}") from error


def _encoded_in(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        files = [path for path in image_files(source) if path.is_file()]
        if not files:
            raise ConfigError(f"no images ({', '.join(SUFFIXES)}) in the folder {source}")
        for path in files:
            yield str(path), path.read_bytes()
    elif source.suffix.lower() == ".tar" and source.is_file():
        found = False
        try:
            with tarfile.open(source) as archive:
                for member in filter(_is_photograph, archive):
                    if member.size > MOST_BYTES:
                        raise InputError(
                            f"{source}:{member.name} claims {member.size} bytes, more than any photograph "
                            f"has ({MOST_BYTES}); leave it out"
                        )
                    found = True
                    yield f"{source}:{member.name}", archive.extractfile(member).read()
        except tarfile.TarError as error:
            raise InputError(f"{source} is no readable tar archive ({error}); fetch it again") from error
        if not found:
            raise ConfigError(f"no images ({', '.join(SUFFIXES)}) in the archive {source}")
    elif source.is_file() and source.suffix.lower() in SUFFIXES:
        yield str(source), source.read_bytes()
    else:
        raise ConfigError(f"{source} is neither a folder, a .tar archive nor an image; correct the data path")


def _is_photograph(member: tarfile.TarInfo) -> bool:
    name = PurePosixPath(member.name)
    hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in name.parts)
    return member.isfile() and name.suffix.lower() in SUFFIXES and not hidden


def _decode(named: tuple[str, bytes]) -> np.ndarray:
    name, data = named
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error:  # more pixels than OpenCV allows
        image = None
    if image is None:
        raise InputError(f"{name} cannot be decoded as an image; remove or replace it")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def sharp_tiles(photo: np.ndarray) -> np.ndarray:
    """Top-left corners (N, 2) as (y, x) of the sharp 256-pixel tiles of photo (H, W, 3) uint8."""
    height, width = photo.shape[0] // TILE * TILE, photo.shape[1] // TILE * TILE
    if not height or not width:
        return np.zeros((0, 2), np.int64)
    grey = cv2.cvtColor(photo[:height, :width], cv2.COLOR_RGB2GRAY)
    edges = cv2.Laplacian(grey, cv2.CV_32F, ksize=1)
    tiles = edges.reshape(height // TILE, TILE, width // TILE, TILE)
    return np.argwhere(tiles.var(axis=(1, 3)) >= SHARP_VARIANCE) * TILE


class SharpPhotos:
    """Photographs of folders, .tar archives and single files, held in memory as uint8 RGB.

    `cache_megapixels` bounds the memory (3 bytes a pixel): the first photograph beyond it and all that come after are
    left out, with a warning.
    Raises ConfigError for sources without images, InputError for one that cannot be decoded.
    """

    def __init__(
        self, sources: Iterable[str | Path], *, cache_megapixels: float | None = None, threads: int = 2
    ) -> None:
        self.photos: list[np.ndarray] = []
        self.names: list[str] = []
        pixels = 0
        limit = float("inf") if cache_megapixels is None else cache_megapixels * 1e6
        for name, photo in _ordered(lambda named: (named[0], _decode(named)), _encoded(sources), threads):
            if pixels + photo.shape[0] * photo.shape[1] > limit:
                _log.warning(
                    "%s and those after it are left out: %d photographs fill the %g megapixels of cache_megapixels",
                    name,
                    len(self),
                    cache_megapixels,
                )
                break
            pixels += photo.shape[0] * photo.shape[1]
            self.photos.append(photo)
            self.names.append(name)
        if not self.photos:
            raise ConfigError(f"no photograph fits into cache_megapixels = {cache_megapixels}; raise it")
        self.megapixels = pixels / 1e6
        with ThreadPoolExecutor(threads) as pool:
            self.tiles = list(pool.map(sharp_tiles, self.photos))

    def __len__(self) -> int:
        return len(self.photos)


@dataclass(frozen=True)
class Crops:
    """Random square crops of photographs, as batches (B, 3, size + 2 margin, size + 2 margin) float32 in [0, 1].

    Each crop is downscaled by a random factor in `scale` (area average), flipped and turned at random. A share
    `sharp_share` of them is placed on a sharp tile, each tile as likely as any other; the rest anywhere.
    Photographs smaller than a crop are not used.
    """

    photos: SharpPhotos
    batch_size: int
    size: int
    margin: int = 0
    seed: int = 0
    scale: tuple[float, float] = (0.5, 1.0)
    sharp_share: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"scale {self.scale} must be two ascending factors in (0, 1]")
        side = self.size + 2 * self.margin
        usable = [i for i, photo in enumerate(self.photos.photos) if min(photo.shape[:2]) >= side]
        if not usable:
            raise ConfigError(f"no photograph holds a crop of {side} pixels (size {self.size} and margins)")
        if len(usable) < len(self.photos):
            _log.warning(
                "%d of %d photographs are smaller than a crop of %d pixels (size %d and margins) and left out",
                len(self.photos) - len(usable),
                len(self.photos),
                side,
                self.size,
            )
        tiles = [np.insert(self.photos.tiles[i], 0, i, axis=1) for i in usable]
        object.__setattr__(self, "_usable", usable)
        object.__setattr__(self, "_tiles", np.concatenate(tiles))  # (N, 3): photo, y, x

    def batch(self, step: int, items: Iterable[int] | None = None) -> Tensor:
        """The crops of one training step, or of some of its items; the same for the same seed and step."""
        return self.bytes(step, items).float().div_(255)

    def bytes(self, step: int, items: Iterable[int] | None = None) -> Tensor:
        """What `batch` gives, as uint8."""
        first = step * self.batch_size
        items = range(self.batch_size) if items is None else items
        crops = np.stack([self.crop(first + item) for item in items])  # (B, P, P, 3)
        return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()

    def crop(self, index: int) -> np.ndarray:
        """Crop number `index` as (P, P, 3) uint8 RGB."""
        place = self._place(index)
        crop = self.photos.photos[place.photo][
            place.y : place.y + place.window, place.x : place.x + place.window
        ]
        side = self.size + 2 * self.margin
        if place.window != side:
            crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
        crop = np.rot90(crop, place.turns)
        return np.ascontiguousarray(crop[:, ::-1] if place.flipped else crop)

    def origin(self, index: int) -> str:
        """The file and window that crop number `index` is cut from."""
        place = self._place(index)
        return f"{self.photos.names[place.photo]} [x {place.x}, y {place.y}, {place.window} px]"

    def _place(self, index: int) -> _Place:
        random = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        side = self.size + 2 * self.margin
        on_tile = len(self._tiles) > 0 and random.random() < self.sharp_share
        if on_tile:
            chosen, tile_y, tile_x = self._tiles[random.integers(len(self._tiles))]
        else:
            chosen = self._usable[random.integers(len(self._usable))]
        height, width = self.photos.photos[chosen].shape[:2]
        factor = max(random.uniform(*self.scale), side / min(height, width))
        window = min(round(side / factor), height, width)
        if on_tile:  # the window's centre lies in the tile, as far as the photograph allows
            y = int(tile_y + random.integers(TILE)) - window // 2
            x = int(tile_x + random.integers(TILE)) - window // 2
            y, x = min(max(y, 0), height - window), min(max(x, 0), width - window)
        else:
            y, x = random.integers(height - window + 1), random.integers(width - window + 1)
        turns, flipped = random.integers(4), random.integers(2)
        return _Place(int(chosen), int(y), int(x), int(window), int(turns), bool(flipped))


class _Place(NamedTuple):
    """Where a crop is cut, and how it is turned."""

    photo: int
    y: int
    x: int
    window: int
    turns: int
    flipped: bool


def _ordered(function: Callable[[T], object], items: Iterable[T], threads: int) -> Iterator:
    """function over items in `threads` threads, results in order, only a few items ahead."""
    with ThreadPoolExecutor(threads) as pool:
        waiting = []
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def prefetch(
    function: Callable[[int], T], steps: Iterable[int], *, depth: int = 2, threads: int = 1
) -> Iterator[T]:
    """function(step) for each step in order, computed up to `depth` steps ahead in background threads.

    An exception of the function is raised when its step is due. Closing the iterator stops the threads.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        waiting = []
        try:
            for step in steps:
                waiting.append(pool.submit(function, step))
                if len(waiting) > depth:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
