"""Paths and addresses alike: what a text names, what exists, and a file here for what is there."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from xyscannet.addresses.address import Address
from xyscannet.errors import XYScanError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def place_of(text: str) -> Path | Address:
    """The path, or the address, that a text names; file:// names a path."""
    if not _SCHEME.match(text):
        return Path(text)
    address = Address(text)
    if address.scheme in ("file", "local"):
        import fsspec

        return Path(fsspec.core.strip_protocol(text))
    return address


def existing(places: Iterable[Path | Address]) -> set[Path | Address]:
    """Those that exist; folders of addresses are listed once, not asked for each file."""
    found: set[Path | Address] = set()
    folders: dict[Address, list[Address]] = {}
    for place in places:
        if isinstance(place, Address):
            folders.setdefault(place.parent, []).append(place)
        elif os.path.lexists(place):
            found.add(place)
    for folder, wanted in folders.items():
        if len(wanted) == 1:
            found |= {place for place in wanted if place.exists()}
            continue
        with folder._reached() as (fs, path):
            names = set(fs.ls(path, detail=False) if fs.isdir(path) else ())
            found |= {place for place in wanted if fs._strip_protocol(place.text) in names}
    return found


def exists(place: Path | Address) -> bool:
    """Whether a file, a folder or a broken link is there."""
    return place.exists() if isinstance(place, Address) else os.path.lexists(place)


@contextlib.contextmanager
def fetched(place: Path | Address) -> Iterator[Path]:
    """The file itself, or a copy of it on this machine for the length of the block. Errors of ours name the address."""
    with _here(place) as path:
        if isinstance(place, Address):
            place._fetch(path)
        yield path


@contextlib.contextmanager
def stored(place: Path | Address) -> Iterator[Path]:
    """The file itself, or one on this machine that goes to the address, whole, if the block ends well."""
    with _here(place) as path:
        yield path
        if isinstance(place, Address):
            place._store(path)


@contextlib.contextmanager
def stored_folder(place: Path | Address) -> Iterator[Path]:
    """The folder itself, or one here whose files go below the address, each whole, if the block ends well."""
    with _here(place) as folder:
        yield folder
        if isinstance(place, Address):
            for path in sorted(each for each in folder.rglob("*") if each.is_file()):
                (place / path.relative_to(folder))._store(path)


@contextlib.contextmanager
def _here(place: Path | Address) -> Iterator[Path]:
    """The path itself, or one on this machine for the length of the block, which errors of ours call by its address."""
    if not isinstance(place, Address):
        yield place
        return
    with tempfile.TemporaryDirectory(prefix="xyscan-") as folder:
        path = Path(folder) / f"file{place.suffix}"
        try:
            yield path
        except XYScanError as error:
            raise type(error)(str(error).replace(os.fspath(path), place.text)) from error
