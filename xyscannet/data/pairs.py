"""Pairs of blurred and sharp files: matched by path, by stem, or by names that differ in words such as blur and gt."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xyscannet.errors import InputError
from xyscannet.images import SUFFIXES

ROLE_WORDS = frozenset({"blur", "blurry", "blurred", "input", "sharp", "gt", "target"})
"""Words in which the names of two partners may differ."""

_WORDS = re.compile(r"\d+|[^\W\d_]+")


@dataclass(frozen=True, order=True)
class Pair:
    """A blurred image and its sharp partner; `name` is the path of the pair below the root, without suffix."""

    name: str
    blur: Path
    sharp: Path


def image_files(folder: Path, *, deep: bool = True) -> list[Path]:
    """The images in a folder, and with `deep` in its subfolders, sorted; none for a folder that is not there.

    Hidden files and folders are left out. Links to folders are followed, but not to one that is being walked or holds
    it. Raises InputError for a folder that cannot be read.
    """
    return sorted(_walk(folder, deep, frozenset()))


def _walk(folder: Path, deep: bool, above: frozenset[str]) -> Iterator[Path]:
    here = os.path.realpath(folder)
    if any(Path(each).is_relative_to(here) for each in above) or not os.path.isdir(folder):
        return
    for path, is_folder in entries(folder):
        if is_folder and deep:
            yield from _walk(path, deep, above | {here})
        elif not is_folder and path.suffix.lower() in SUFFIXES:
            yield path


def entries(folder: Path) -> list[tuple[Path, bool]]:
    """What lies in a folder and whether it is a folder, sorted, without hidden things. Raises InputError."""
    try:
        with os.scandir(folder) as found:
            visible = [entry for entry in found if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {error.strerror}") from error
    visible.sort(key=lambda entry: entry.name)
    return [(folder / entry.name, _is_folder(entry)) for entry in visible]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir(follow_symlinks=False)


def match(
    blur: Path, sharp: Path, *, deep: bool = True, spare_sharp: bool = False
) -> tuple[list[Pair], list[str]]:
    """Pairs of the images of two folders, named by the blurred one's path, and what is wrong with the rest.

    Partners have, in this order of preference, one path without suffix; one path but for ROLE_WORDS, case and
    separators; or, where one of the folders has no subfolders, one file name (but for the same). A partner that
    is not the only one is a problem, and so is a file without a partner, but not a sharp one with `spare_sharp`.
    """
    blurs, sharps = image_files(blur, deep=deep), image_files(sharp, deep=deep)
    problems: list[str] = []
    partner: dict[Path, Path] = {}
    rules: list[Callable[[Path], Hashable]] = [
        lambda path: path.with_suffix(""),
        lambda path: tuple(map(words, path.with_suffix("").parts)),
    ]
    if _flat(blur, blurs) or _flat(sharp, sharps):
        rules += [lambda path: path.stem, lambda path: words(path.stem)]
    settled: set[Path] = set()
    for rule in rules:
        left = _by(rule, blur, [path for path in blurs if path not in settled])
        right = _by(rule, sharp, [path for path in sharps if path not in settled])
        for key in sorted(left.keys() & right.keys()):
            files, partners = left[key], right[key]
            settled.update(files, partners)
            if len(files) == len(partners) == 1:
                partner[files[0]] = partners[0]
            for several in (files, partners):
                problems += [
                    f"{path} has the same stem as {several[0].name}: its partner is ambiguous"
                    for path in several[1:]
                ]
    lonely = [(path, sharp) for path in blurs if path not in settled]
    lonely += [(path, blur) for path in sharps if path not in settled and not spare_sharp]
    problems += [f"{path} has no partner in {other}" for path, other in lonely]
    names = (path.relative_to(blur).with_suffix("").as_posix() for path in partner)
    return sorted(map(Pair, names, partner.keys(), partner.values())), problems


def words(name: str) -> tuple[str, ...]:
    """The words and numbers of a name in lower case, without ROLE_WORDS."""
    return tuple(word for word in _WORDS.findall(name.lower()) if word not in ROLE_WORDS)


def _flat(folder: Path, files: Sequence[Path]) -> bool:
    return all(path.parent == folder for path in files)


def _by(rule: Callable[[Path], Hashable], folder: Path, files: Sequence[Path]) -> dict[Hashable, list[Path]]:
    groups: dict[Hashable, list[Path]] = {}
    for path in files:
        groups.setdefault(rule(path.relative_to(folder)), []).append(path)
    return groups
