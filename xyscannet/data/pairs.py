"""Pairs of blurred and sharp files in GoPro's layouts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xyscannet.errors import ConfigError, UnavailableError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True, order=True)
class Pair:
    """A blurred image and its sharp partner; `name` is the path of the pair below the root, without suffix."""

    name: str
    blur: Path
    sharp: Path


def find_pairs(root: str | Path) -> list[Pair]:
    """All pairs below `root`, sorted by name.

    A pair is two files of one stem in sibling folders `blur` and `sharp`, which lie in the root itself, in
    <sequence>, or in <split>/<sequence>. Raises UnavailableError without such folders, ConfigError naming the
    files that have no partner or whose partner is ambiguous.
    """
    root = Path(root)
    if not root.is_dir():
        raise UnavailableError(f"the data folder {root} does not exist; correct the path")
    folders = sorted(
        {path.parent for name in ("blur", "sharp") for path in root.rglob(name) if path.is_dir()}
    )
    if not folders:
        raise UnavailableError(
            f"no folders named blur and sharp below {root}; expected [SPLIT/][SEQUENCE/]{{blur,sharp}}"
        )
    pairs, faults = [], []
    for folder in folders:
        blur, sharp = (_by_stem(folder / name, faults) for name in ("blur", "sharp"))
        faults += [
            f"{path} has no partner in {folder / 'sharp'}" for stem, path in blur.items() if stem not in sharp
        ]
        faults += [
            f"{path} has no partner in {folder / 'blur'}" for stem, path in sharp.items() if stem not in blur
        ]
        place = folder.relative_to(root)
        pairs += [Pair((place / stem).as_posix(), blur[stem], sharp[stem]) for stem in blur if stem in sharp]
    if faults:
        shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
        raise ConfigError(f"{len(faults)} files without one partner below {root}: {shown}")
    if not pairs:
        raise UnavailableError(
            f"the folders blur and sharp below {root} hold no images ({', '.join(SUFFIXES)})"
        )
    return sorted(pairs)


def _by_stem(folder: Path, faults: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in files:
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if path.stem in found:
            faults.append(f"{path} has the same stem as {found[path.stem].name}")
        found[path.stem] = path
    return found
