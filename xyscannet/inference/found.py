"""The images and clips that the inputs of a command name: files, folders, patterns and addresses."""

from __future__ import annotations

import errno
import glob
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from xyscannet.addresses import Address, place_of
from xyscannet.errors import ConfigError
from xyscannet.files import shown
from xyscannet.images import SUFFIXES
from xyscannet.video import SUFFIXES as CLIP_SUFFIXES


@dataclass
class Found:
    """What the inputs name.

    Attributes:
        files: each image or clip, and its place under the output.
        addresses: folders that were walked at addresses.
        folders: each folder that was walked here, by device and inode.
        unreadable: what could not be looked at, its place, and the reason.
        ignored: how many files there are that are neither images nor clips, by suffix.
    """

    files: list[tuple[Path | Address, Path]] = field(default_factory=list)
    addresses: list[Address] = field(default_factory=list)
    folders: dict[tuple[int, int], Path] = field(default_factory=dict)
    unreadable: list[tuple[Path | Address, Path, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)


def is_clip(path: Path | Address) -> bool:
    """Whether a name is a clip's."""
    return path.suffix.lower() in CLIP_SUFFIXES


def find(text: str, found: Found) -> None:
    """Add what one input names. Raises ConfigError where that is nothing."""
    path = place_of(text)
    if isinstance(path, Address):
        return _find_address(path, found)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if glob.has_magic(text) and not path.is_symlink():
            return _find_pattern(text, found)
        broken = " (a broken link)" if path.is_symlink() else ""
        raise ConfigError(f"input does not exist: {shown(text)}{broken}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"input cannot be reached: {shown(text)}: {reason}") from None
    if stat.S_ISDIR(status.st_mode):
        _walk(path, Path(), found)
    elif stat.S_ISREG(status.st_mode):
        found.files.append((path, Path(path.name)))
    else:
        raise ConfigError(f"input is neither a file nor a folder: {shown(text)}")


def _find_address(address: Address, found: Found) -> None:
    known = address.suffix.lower() in SUFFIXES or is_clip(address)
    pattern = address.is_pattern
    if not pattern and (known or not address.is_dir()):
        if not address.exists():
            raise ConfigError(f"input does not exist: {shown(address)}")
        found.files.append((address, Path(address.name)))
        return
    matches = address.files()
    if pattern and not matches:
        raise ConfigError(f"no file matches the pattern {shown(address)}")
    found.addresses += [] if pattern else [address]
    for file, place, _ in matches:
        if ".." in place.parts or place.is_absolute():  # a key of a store may be any text
            inside = Path(*(part for part in place.parts if part not in ("/", "//", "..")))
            found.unreadable.append((file, inside, f"{shown(file)}: its name leads out of the folder"))
        elif file.suffix.lower() in SUFFIXES or is_clip(file):
            found.files.append((file, Path(place)))
        else:
            found.ignored[file.suffix.lower()] += 1


def _find_pattern(text: str, found: Found) -> None:
    parts = Path(text).parts
    fixed = Path(*parts[: next(i for i, part in enumerate(parts) if glob.has_magic(part))])
    if text.endswith("/") and "**" not in parts:
        parts += ("",)  # folders alone
    matches = sorted(set(_matches(parts, fixed, found)))
    if not matches:
        raise ConfigError(f"no file matches the pattern {shown(text)}")
    for path in matches:
        if not os.path.isdir(path):
            _take(path, path.relative_to(fixed), found)
        elif "**" not in parts:
            _walk(path, path.relative_to(fixed), found)


def _matches(parts: tuple[str, ...], fixed: Path, found: Found) -> Iterator[Path]:
    """What glob finds, except that a ** is the folders of a walk, so that links do not lead in circles."""
    if "**" not in parts:
        yield from map(Path, glob.iglob(os.path.join(*parts)))
        return
    at = parts.index("**")
    for root in map(Path, glob.glob(os.path.join(*parts[:at], "")) if at else [""]):
        for folder, _, _ in _folders(root, root.relative_to(fixed), {}, found):
            yield from _matches((glob.escape(str(folder)), *(parts[at + 1 :] or "*")), fixed, found)


def _take(path: Path, place: Path, found: Found) -> None:
    """Take a file met in a folder, if its name is an image's or a clip's."""
    mode = 0
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):  # as of links that lead nowhere
            reason = f"{shown(path)}: cannot be reached: {error.strerror}"
            found.unreadable.append((path, place, reason))
            return
    if stat.S_ISREG(mode) and (path.suffix.lower() in SUFFIXES or is_clip(path)):
        found.files.append((path, place))
    else:
        found.ignored[path.suffix.lower() if stat.S_ISREG(mode) else ""] += 1


def _walk(root: Path, place: Path, found: Found) -> None:
    for _, inside, files in _folders(root, place, found.folders, found):
        for path in files:
            _take(path, inside / path.name, found)


def _folders(
    root: Path, place: Path, walked: dict[tuple[int, int], Path], found: Found
) -> Iterator[tuple[Path, Path, list[Path]]]:
    """Walk a folder: each one in it, its place and its files; linked ones come last, and none comes twice."""
    waiting, links = [(root, place)], []
    while waiting or links:
        folder, place = waiting.pop() if waiting else links.pop(0)
        try:
            status = os.stat(os.path.join(folder, "."))  # refused without the right to enter it, too
            if (status.st_dev, status.st_ino) in walked and folder != root:
                continue
            walked[status.st_dev, status.st_ino] = folder
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            reason = f"{shown(folder)}: the folder cannot be read: {error.strerror}"
            found.unreadable.append((folder, place, reason))
            continue
        inner, files = [], []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if not os.path.isdir(path):
                files.append(path)
            else:
                (links if path.is_symlink() else inner).append((path, place / entry.name))
        yield folder, place, files
        waiting += reversed(inner)
