"""Where the restored image of a pair is from: a network, a folder of files, or the blurred image as it is."""

from __future__ import annotations

import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, Protocol

import torch
from torch import nn

from xyscannet.errors import InputError, UnavailableError
from xyscannet.images import SUFFIXES, Photo, read, write
from xyscannet.inference import plan_image, restore


class Source(Protocol):
    """What makes, or has, the restored image of a sample.

    `label` names it in tables; `identity` is what its images depend on, as plain values.
    """

    label: str
    identity: Mapping[str, Any]

    def restored(self, sample: Any) -> tuple[Photo, str | None, float | None]:
        """The image, its file where there is one, and the seconds that restoring took. Raises InputError."""
        ...


class AsIs:
    """The blurred images themselves: the baseline of every metric; or restored images that stand in their place."""

    def __init__(self, label: str = "blurred input") -> None:
        self.label = label
        self.identity: dict[str, Any] = {"source": "as it is"}

    def restored(self, sample: Any) -> tuple[Photo, str | None, float | None]:
        return read(sample.blur), os.fspath(sample.blur), None


class Network:
    """A network that restores each image, on the device it is on.

    Args:
        label, identity: its name, and its weights' digest and whatever else decides its results.
        keep: a folder for the restored images, as PNG; None to keep none.
        dtype, tile, ensemble: as in `restore` and `plan_image`.
        tell: hears warnings.
    """

    def __init__(
        self,
        model: nn.Module,
        label: str,
        identity: Mapping[str, Any],
        *,
        dtype: torch.dtype = torch.float32,
        tile: str | int = "auto",
        ensemble: bool = False,
        keep: Path | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.model, self.label, self.keep, self.tell = model, label, keep, tell
        self.dtype, self.tile, self.ensemble = dtype, tile, ensemble
        self.identity = {**identity, "dtype": str(dtype), "tile": str(tile), "ensemble": ensemble}

    def restored(self, sample: Any) -> tuple[Photo, str | None, float | None]:
        photo = read(sample.blur)
        image = torch.from_numpy(photo.to_float()).permute(2, 0, 1)[None]  # (1, 3, H, W)
        device = next(self.model.parameters()).device
        started = time.perf_counter()
        plan = plan_image(
            photo.height, photo.width, self.model.config, device=device, dtype=self.dtype, tile=self.tile
        )
        found = restore(self.model, image, plan, ensemble=self.ensemble, dtype=self.dtype, tell=self.tell)
        seconds = time.perf_counter() - started
        photo = photo.with_float(found[0].permute(1, 2, 0).numpy())
        if self.keep is None:
            return photo, None, seconds
        path = self.keep / f"{sample.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(replace(photo, alpha=None), path, format="png", strip_metadata=True)
        return photo, os.fspath(path), seconds


class Folder:
    """A folder of images that something else restored; each belongs to the sample whose path ends as its own does.

    Raises UnavailableError where the folder holds no images.
    """

    def __init__(self, folder: str | Path, label: str | None = None) -> None:
        self.folder = Path(folder)
        files = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
        if not files:
            raise UnavailableError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
        self.label = label or self.folder.name
        state = [(p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
        self.identity: dict[str, Any] = {"files": hashlib.sha256(repr(state).encode()).hexdigest()}
        self._by_tail: dict[tuple[str, ...], list[Path]] = defaultdict(list)
        for path in files:
            for tail in _tails(path.relative_to(folder).with_suffix("")):
                self._by_tail[tail].append(path)

    def restored(self, sample: Any) -> tuple[Photo, str | None, float | None]:
        path = self.find(sample)
        return read(path), os.fspath(path), None

    def find(self, sample: Any) -> Path:
        """The file of a sample. Raises InputError where there is none, or more than one."""
        partners = [Path(f).with_suffix("") for f in (sample.blur, sample.sharp) if f is not None]
        tails = [_tails(PurePath(sample.name)), *map(_tails, partners), [(sample.name.replace("/", "_"),)]]
        several = None
        for tail in sorted({tail for group in tails for tail in group}, key=lambda t: (-len(t), t)):
            found = self._by_tail.get(tail, ())
            if len(found) == 1:
                return found[0]
            several = found or several
        if several:
            names = ", ".join(p.relative_to(self.folder).as_posix() for p in several[:3])
            raise InputError(f"{self.folder} holds {len(several)} images that may be {sample.name}: {names}")
        raise InputError(f"{self.folder} holds no image of {sample.name}")


def _tails(path: PurePath) -> list[tuple[str, ...]]:
    """Every end of a path, the longest first."""
    return [path.parts[first:] for first in range(len(path.parts))]
