"""Where the restored image of a pair is from: a network, a folder of files, or the blurred image as it is."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, Protocol

import torch
from torch import nn

from xyscannet.addresses import Address, fetched
from xyscannet.data.pairs import image_files
from xyscannet.data.remote import listing
from xyscannet.errors import InputError, UnavailableError
from xyscannet.images import SUFFIXES, Photo, read, write
from xyscannet.inference import restore_at_scales


class Source(Protocol):
    """What makes, or has, the restored image of a sample.

    `label` names it in tables; `identity` is what its images depend on, as plain values.
    """

    label: str
    identity: Mapping[str, Any]

    def restored(self, sample: Any) -> tuple[Photo, str | None, float | None]:
        """The image, its file where there is one, and the seconds that restoring took.

        Raises InputError where this image fails, UnavailableError where a folder for restored ones cannot be written.
        """
        ...


def photo_of(file: str | Path | Address) -> Photo:
    """The photograph in a file; one at an address is fetched for as long as it is read. Raises InputError."""
    with fetched(file if isinstance(file, Address) else Path(file)) as path:
        return read(path)


class AsIs:
    """The blurred images themselves: the baseline of every metric; or restored images that stand in their place."""

    def __init__(self, label: str = "blurred input") -> None:
        self.label = label
        self.identity: dict[str, Any] = {"source": "as it is"}

    def restored(self, sample: Any) -> tuple[Photo, str | None, float | None]:
        return photo_of(sample.blur), os.fspath(sample.blur), None


class Network:
    """A network that restores each image, on the device it is on.

    Args:
        label, identity: its name, and its weights' digest and whatever else decides its results.
        keep: a folder for the restored images, as PNG; None to keep none.
        dtype, scales, tile, ensemble: as in `restore_at_scales`; at full size by default, as papers measure.
        tell: hears warnings.
    """

    def __init__(
        self,
        model: nn.Module,
        label: str,
        identity: Mapping[str, Any],
        *,
        dtype: torch.dtype = torch.float32,
        scales: str | int = 1,
        tile: str | int = "auto",
        ensemble: bool = False,
        keep: Path | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.model, self.label, self.keep, self.tell = model, label, keep, tell
        self.dtype, self.scales, self.tile, self.ensemble = dtype, scales, tile, ensemble
        how = {"dtype": str(dtype), "scales": str(scales), "tile": str(tile), "ensemble": ensemble}
        self.identity = {**identity, **how}

    def restored(self, sample: Any) -> tuple[Photo, str | None, float | None]:
        photo = photo_of(sample.blur)
        image = torch.from_numpy(photo.to_float()).permute(2, 0, 1)[None]  # (1, 3, H, W)
        started = time.perf_counter()
        found, _ = restore_at_scales(
            self.model,
            image,
            scales=self.scales,
            tile=self.tile,
            ensemble=self.ensemble,
            dtype=self.dtype,
            tell=self.tell,
        )
        seconds = time.perf_counter() - started
        photo = photo.with_float(found[0].permute(1, 2, 0).numpy())
        if self.keep is None:
            return photo, None, seconds
        path = self.keep / f"{sample.name}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(replace(photo, alpha=None), path, format="png", strip_metadata=True)
        except (InputError, OSError) as error:  # a full disk: no failure of this image
            raise UnavailableError(f"the restored image cannot be kept: {error}") from error
        return photo, os.fspath(path), seconds


class Folder:
    """A folder of images that something else restored; each belongs to the sample whose path ends as its own does.

    Of a sample's path count the name and its partners' places, without the folders that tell blurred from sharp ones;
    an end that several samples share is none's.

    At an address it is listed once; whether its files are those of an earlier run is told by what the listing says of
    them: size, date, checksum. A web server's says nothing.

    Args:
        samples: the whole set, also where only some of it is measured.

    Raises UnavailableError where the folder holds no images, or its address cannot be reached.
    """

    def __init__(
        self, folder: str | Path | Address, samples: Sequence[Any], label: str | None = None
    ) -> None:
        self.folder = folder if isinstance(folder, Address) else Path(folder)
        listed = _listed(self.folder)
        files = [each for each in listed if each[1].suffix.lower() in SUFFIXES]
        if not files:
            raise UnavailableError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
        self.label = label or self.folder.name
        state = [(place.as_posix(), *facts) for _, place, facts in files]
        self.identity: dict[str, Any] = {"files": hashlib.sha256(repr(state).encode()).hexdigest()}
        self._places = {file: place.as_posix() for file, place, _ in files}
        self._fits = _fits({file: place for file, place, _ in files}, samples)
        self._claims: dict[Path | Address, list[str]] = defaultdict(list)
        for name, fits in self._fits.items():
            for file in fits:
                self._claims[file].append(name)

    def restored(self, sample: Any) -> tuple[Photo, str | None, float | None]:
        file = self.find(sample)
        return photo_of(file), os.fspath(file), None

    def find(self, sample: Any) -> Path | Address:
        """The file of a sample. Raises InputError where there is none, more than one, or one of two samples."""
        fits = self._fits.get(sample.name)
        if not fits:
            raise InputError(f"{self.folder} holds no image of {sample.name}")
        if len(fits) > 1:
            names = ", ".join(self._places[file] for file in fits[:3])
            raise InputError(
                f"{self.folder} holds {len(fits)} images that may be {sample.name}: {names}; give the folder that "
                "holds the restored ones alone"
            )
        if len(claims := self._claims[fits[0]]) > 1:
            raise InputError(
                f"{self._places[fits[0]]} in {self.folder} may be {' or '.join(claims[:3])}: name it as the blurred one"
            )
        return fits[0]


def _fits(
    places: Mapping[Path | Address, PurePath], samples: Sequence[Any]
) -> dict[str, list[Path | Address]]:
    """By sample name, the files that share the longest end with it that some file has and no other sample.

    A file in a folder named as the sharp ones' is not taken alone, unless all files lie in such: it is a sharp one.
    """
    of_blur: set[str] = set()
    of_sharp: set[str] = set()
    for sample in samples:
        if sample.sharp is not None:
            blur, sharp = (set(_readable(file).parts[:-1]) for file in (sample.blur, sample.sharp))
            of_blur |= blur - sharp
            of_sharp |= sharp - blur
    roles = of_blur | of_sharp
    truth = {file for file, place in places.items() if not of_sharp.isdisjoint(place.parts[:-1])}

    def tails(path: PurePath) -> list[tuple[str, ...]]:
        """Every end of a path without suffix and roles."""
        parts = [*(part for part in path.parts[:-1] if part not in roles), path.stem]
        return [tuple(parts[first:]) for first in range(len(parts))]

    by_tail: dict[tuple[str, ...], dict[Path | Address, None]] = defaultdict(dict)
    for file, place in places.items():
        for tail in [*_tails("/" / place.with_suffix("")), *tails(place)]:
            by_tail[tail][file] = None
    # the sharp partner's name counts where there is no file of the blurred one's
    known = {
        sample.name: (
            {
                *_tails("/" / PurePath(sample.name)),
                *tails(_readable(sample.blur)),
                (sample.name.replace("/", "_"),),
            },
            set() if sample.sharp is None else set(tails(_readable(sample.sharp))),
        )
        for sample in samples
    }
    sharing = Counter(tail for groups in known.values() for tail in set.union(*groups))
    found: dict[str, list[Path | Address]] = {}
    for name, groups in known.items():
        shared = [[tail for tail in group if tail in by_tail and sharing[tail] == 1] for group in groups]
        longest = next((max(group, key=lambda tail: (len(tail), tail)) for group in shared if group), None)
        found[name] = [] if longest is None else list(by_tail[longest])
        if truth.issuperset(found[name]) and len(truth) < len(places):
            found[name] = []
    return found


def _listed(folder: Path | Address) -> list[tuple[Path | Address, PurePath, tuple[Any, ...]]]:
    """The files below a folder, their places there, and what tells that they have not changed."""
    if isinstance(folder, Address):
        return [(file, place, (state,)) for file, place, state in listing(folder)]
    found = [(file, file.stat()) for file in image_files(folder) if file.is_file()]
    return [(file, file.relative_to(folder), (status.st_size, status.st_mtime_ns)) for file, status in found]


def _readable(file: str | Path | Address) -> PurePath:
    return file.readable if isinstance(file, Address) else Path(file)


def _tails(path: PurePath) -> list[tuple[str, ...]]:
    """Every end of a path."""
    return [path.parts[first:] for first in range(len(path.parts))]
