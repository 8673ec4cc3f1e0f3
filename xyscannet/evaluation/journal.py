"""What an interrupted evaluation has measured already: a line of JSON for each image, and the state of set metrics."""

from __future__ import annotations

import contextlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from xyscannet.errors import ConfigError, InputError
from xyscannet.files import held, reason, replacing
from xyscannet.reports.results import ImageResult, portable, result_from

FORMAT = 1
_WORDS = {
    "samples": "other pairs",
    "contents": "images that have changed since",
    "files": "restored images that have changed since",
    "kept": "restored images that were not kept",
}
_KEPT = "what was measured before is kept"


class Journal:
    """The measured images of one evaluation in a folder, kept as they come.

    Args:
        folder: is made where it is missing; `journal.jsonl` and, for metrics of sets, `NAME.npz` lie in it.
        identity: everything that decides the values. A journal of another identity is not continued. It is written with
            the first image.
        fresh: begin anew, whatever is there.

    Attributes:
        images: results by image name, those of an earlier run included.
        seconds: by metric, what it took of each image.

    Raises:
        ConfigError: the journal there belongs to another evaluation (the message names what differs), or another
            run is writing to it.
        InputError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any], *, fresh: bool = False) -> None:
        self.folder = Path(folder)
        self.images: dict[str, ImageResult] = {}
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self._identity = json.loads(json.dumps({"format": FORMAT, **identity}))
        path = self.folder / "journal.jsonl"
        with contextlib.ExitStack() as stack:
            stack.enter_context(held(self.folder))
            self._open(path, fresh)
            self._held = stack.pop_all()

    def _open(self, path: Path, fresh: bool) -> None:
        try:
            whole = 0 if fresh else self._load(path)
            self._file = open(path, "r+b" if whole else "wb")  # noqa: SIM115 -- closed in __exit__
            self._file.truncate(whole)
            self._file.seek(whole)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written: {error.strerror}") from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._held, contextlib.suppress(OSError):  # what could not be written was told when it failed
            self._file.close()

    def add(self, image: ImageResult, seconds: Mapping[str, float]) -> None:
        """Keep an image's result and the seconds each of its metrics took."""
        if not self._file.tell():
            self._write(self._identity)
        self._write({"image": portable(asdict(image)), "seconds": dict(seconds)})
        self._note(image, seconds)

    def save_state(self, name: str, state: Mapping[str, np.ndarray]) -> None:
        """Keep what a metric of sets has gathered from exactly the images added so far."""
        path = self.folder / f"{name}.npz"
        try:
            with replacing(path) as temporary, open(temporary, "wb") as file:
                np.savez(file, images=np.array(len(self.images)), **state)
        except InputError as error:
            raise InputError(f"{error}; {_KEPT}") from None

    def state(self, name: str) -> tuple[dict[str, np.ndarray], int] | None:
        """What `save_state` kept, and from how many images, the first ones of the journal; None where it is damaged."""
        try:
            with np.load(self.folder / f"{name}.npz", allow_pickle=False) as held:
                arrays = dict(held)
            return arrays, int(arrays.pop("images"))
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    def forget_after(self, count: int) -> None:
        """Drop all images but the first `count`."""
        kept = list(self.images.values())[:count]
        path = self.folder / "journal.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)[: 1 + count]
        self._file.truncate(sum(map(len, lines)))
        self._file.seek(0, os.SEEK_END)
        self.images, self.seconds = {}, defaultdict(list)
        for line, image in zip(lines[1:], kept, strict=True):
            self._note(image, json.loads(line)["seconds"])

    def _note(self, image: ImageResult, seconds: Mapping[str, float]) -> None:
        self.images[image.name] = image
        for name, taken in seconds.items():
            self.seconds[name].append(taken)

    def _write(self, record: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from None

    @staticmethod
    def identity_in(folder: str | Path) -> dict[str, Any]:
        """The identity of the journal in a folder; empty where there is none that can be read."""
        try:
            with open(Path(folder) / "journal.jsonl", "rb") as file:
                found = json.loads(file.readline())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"{self.folder}: cannot be written: {reason(error)}; {_KEPT}")

    def _load(self, path: Path) -> int:
        """Read what is there; returns the bytes of its whole lines (the last may have been cut off)."""
        if not path.exists():
            return 0
        lines = path.read_bytes().splitlines(keepends=True)
        whole = 0
        for number, line in enumerate(lines):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                if number == 0:
                    _check(record, self._identity, path)
                else:
                    self._note(result_from(record["image"]), record["seconds"])
            except (ValueError, KeyError, TypeError):
                if number == 0:
                    raise ConfigError(
                        f"{path} is no journal of an evaluation; choose another --out"
                    ) from None
                break
            whole += len(line)
        return whole


def _check(found: Mapping[str, Any], identity: Mapping[str, Any], path: Path) -> None:
    if not isinstance(found, dict):
        raise ValueError(path)
    changed = [name for name in {**identity, **found} if found.get(name) != identity.get(name)]
    if changed:
        shown = "; ".join(
            _WORDS.get(name, f"{name}: {found.get(name)} there, {identity.get(name)} now")
            for name in changed[:3]
        )
        raise ConfigError(
            f"{path.parent} holds an evaluation of something else ({shown}); --fresh begins anew, --out chooses "
            "another folder"
        )
