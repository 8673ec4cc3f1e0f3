"""Looks at every file of a data set: unreadable ones, and pairs whose sizes differ."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from xyscannet.addresses import Address, fetched
from xyscannet.data.sets import Dataset, Sample
from xyscannet.errors import InputError
from xyscannet.images import probe, read

AT_ONCE = 8  # samples, where files are decoded or fetched


@dataclass(frozen=True)
class Checked:
    """What the files of a sample are like.

    Attributes:
        size: width and height of the blurred image in pixels; None where it cannot be read.
        problems: unreadable files, or sizes that differ.
    """

    sample: Sample
    size: tuple[int, int] | None
    problems: tuple[str, ...]


def check(dataset: Dataset, *, deep: bool = False) -> Iterator[Checked]:
    """Every sample in order, from the headers of its files, or with `deep` from their decoded pixels.

    What is at an address is fetched, whole, for as long as it is looked at.
    """
    size_of = _decoded_size if deep else _header_size
    far = any(isinstance(file, Address) for each in dataset.samples for file in (each.blur, each.sharp))
    if not (deep or far):
        yield from (_checked(sample, size_of) for sample in dataset.samples)
        return
    pool = ThreadPoolExecutor(AT_ONCE if far else min(AT_ONCE, os.cpu_count() or 1))
    try:
        yield from pool.map(lambda sample: _checked(sample, size_of), dataset.samples)
    finally:
        pool.shutdown(cancel_futures=True)


def _checked(sample: Sample, size_of: Callable[[Path | Address], tuple[int, int]]) -> Checked:
    sizes, problems = [], []
    for path in (sample.blur, sample.sharp):
        try:
            sizes.append(None if path is None else size_of(path))
        except InputError as error:
            sizes.append(None)
            problems.append(str(error))
    blur, sharp = sizes
    if blur and sharp and blur != sharp:
        problems.append(
            f"{sample.blur} has {blur[0]}x{blur[1]} pixels, {sample.sharp} has {sharp[0]}x{sharp[1]}"
        )
    return Checked(sample, blur, tuple(problems))


def _header_size(place: Path | Address) -> tuple[int, int]:
    with fetched(place) as path:
        info = probe(path)
    return info.width, info.height


def _decoded_size(place: Path | Address) -> tuple[int, int]:
    with fetched(place) as path:
        height, width = read(path).rgb.shape[:2]
    return width, height
