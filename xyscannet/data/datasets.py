"""Data sets for deblurring: GoPro, HIDE, RealBlur-J, RealBlur-R and RWBI in the layouts that circulate.

A set is recognised by looking at a folder: the set itself, one of its splits, or a folder that holds it under a
usual name (`GoPro`, `GOPRO_Large`, `HIDE_dataset`, `RealBlur`, `Datasets/test/HIDE`, ...). Two folders of any names
make a set too, and so does a folder of blurred images.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from xyscannet.data.layouts import SEQUENCES, Search, samples_of, unpaired
from xyscannet.data.pairs import match
from xyscannet.data.sets import KNOWN, NAMES, REALBLUR, SPLITS, Dataset, Sample, agree
from xyscannet.errors import ConfigError, UnavailableError

__all__ = ["ENVIRONMENT", "NAMES", "SPLITS", "Dataset", "Sample"]
__all__ += ["find", "images_below", "pair_folders", "recognise"]

ENVIRONMENT = "XYSCAN_DATA"
"""Environment variable with the folders that `find` looks into, separated as those of PATH."""


def find(name: str, root: str | Path | None = None, split: str = "test", *, gamma: bool = False) -> Dataset:
    """A known set on the disk.

    Args:
        name: one of NAMES.
        root: the set's folder, its split's folder, or one that holds it; None: the first folder of XYSCAN_DATA that
            has the set. A folder that is given may hold pairs whose set cannot be told; they are taken as `name`.
        split: `test` or `train`. Pairs in no folder of a split are the training split if their count is that of it,
            else the test split.
        gamma: GoPro's blur_gamma instead of blur, which is averaged in linear light.

    Raises:
        ConfigError: an unknown name or split, a folder that holds the set twice or another set.
        UnavailableError: the set is not there; says where was looked, what is expected and where the set is published.
        InputError: a folder or list file that cannot be read.
    """
    if name not in NAMES:
        raise ConfigError(f"unknown data set {name!r}; known are {', '.join(NAMES)}")
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; known are {', '.join(SPLITS)}")
    if gamma and name != "gopro":
        raise ConfigError(f"only gopro has blur_gamma, {name} does not")
    roots = [Path(root)] if root is not None else _from_environment()
    hints: list[str] = []
    for folder in roots:
        if not os.path.isdir(folder):
            hints.append(f"{folder} is no folder")
            continue
        search = Search(folder, gamma=gamma)
        sets = [_finished(each, name if root is not None else None) for each in search.found]
        if name == "rwbi" and root is not None and not sets:
            sets = _bursts(folder)
        right = [each for each in sets if (each.name, each.split) == (name, split)]
        fits = [each for each in right if each.samples]
        if len(fits) > 1:
            places = "; ".join(f"{each.root} ({each.layout})" for each in fits)
            raise ConfigError(
                f"{folder} holds the {split} split of {fits[0].title} more than once: {places}. Give the folder of one"
            )
        if fits:
            return fits[0]
        hints += [problem for each in right for problem in each.problems[:3]]
        others = ", ".join(sorted({f"{each.title} {each.split}".strip() for each in sets}))
        hints += [f"{folder} holds {others}" if others else f"{folder} holds no known layout", *search.hints]
    raise UnavailableError(_absent(name, split, roots, hints))


def recognise(root: str | Path, *, gamma: bool = False) -> list[Dataset]:
    """All sets and splits in a folder, known ones and pairs of unknown ones; none in a folder without any.

    With `gamma`, GoPro's blur_gamma instead of blur.

    Raises UnavailableError for a folder that does not exist, InputError for one that cannot be read.
    """
    folder = _existing(root)
    sets = [_finished(each, None) for each in Search(folder, gamma=gamma).found]
    places: dict[tuple[str, str], list[Dataset]] = {}
    for each in sets:
        places.setdefault((each.name, each.split), []).append(each)
    return [_with_others(each, places[each.name, each.split]) for each in sets]


def pair_folders(blur: str | Path, sharp: str | Path) -> Dataset:
    """The pairs of two folders: the same path or stem, but for words such as blur, sharp, gt, input and target.

    Raises UnavailableError for a folder that does not exist or pairs that do not.
    """
    blur, sharp = _existing(blur), _existing(sharp)
    pairs, problems = match(blur, sharp)
    if not pairs:
        told = f": {problems[0]}" if problems else ", and no images"
        raise UnavailableError(f"{blur} and {sharp} hold no pairs{told}")
    name = _folder_name(blur)
    samples = tuple(samples_of(pairs))
    return Dataset(name, name, "", "pair of folders", blur, samples, None, tuple(problems))


def images_below(folder: str | Path) -> Dataset:
    """All images below a folder, without sharp partners. Raises UnavailableError if there are none."""
    folder = _existing(folder)
    samples = tuple(sorted(unpaired(folder), key=lambda sample: sample.name))
    if not samples:
        raise UnavailableError(f"{folder} holds no images")
    name = _folder_name(folder)
    return Dataset(name, name, "", "images without sharp ones", folder, samples)


def _existing(folder: str | Path) -> Path:
    if not os.path.isdir(folder):
        what = "is a file" if os.path.exists(folder) else "does not exist"
        raise UnavailableError(f"the data folder {folder} {what}; correct the path")
    return Path(folder)


def _finished(found: Dataset, asked: str | None) -> Dataset:
    """What was found with its name, title, split and published count; unsure names become `asked` if that fits."""
    name = found.name
    told = found.split or not found.layout.startswith(SEQUENCES)  # else any folders of pairs would do
    if name in ("", REALBLUR) and asked and told and agree(name or None, asked):
        name = asked
    known = KNOWN.get(name)
    if known is None:
        folder = _folder_name(
            found.root.parent if found.split and found.root.name.lower() in SPLITS else found.root
        )
        return replace(found, name=name or folder, title="RealBlur" if name == REALBLUR else folder)
    split, count = found.split, len(found.samples)
    if not split:
        split = "train" if count == known.counts.get("train") else "test"
    expected, problems = known.counts.get(split), found.problems
    if expected is not None and count != expected:
        samples = "1 sample" if count == 1 else f"{count} samples"
        problems = (f"{found.root} holds {samples}; the {split} split has {expected}", *problems)
    return replace(found, name=name, title=known.title, split=split, expected=expected, problems=problems)


def _bursts(folder: Path) -> list[Dataset]:
    """A folder of images, or of folders of images, that is said to be RWBI."""
    samples = unpaired(folder)
    if not samples or any(sample.name.count("/") > 1 for sample in samples):
        return []
    ordered = tuple(sorted(samples, key=lambda sample: sample.name))
    return [_finished(Dataset("rwbi", "", "test", "blurred images only", folder, ordered), None)]


def _with_others(found: Dataset, same: list[Dataset]) -> Dataset:
    others = [f"{each.root} ({each.layout})" for each in same if each is not found]
    if not others:
        return found
    return replace(
        found, problems=(*found.problems, f"{found.root}: the set lies also in {'; '.join(others)}")
    )


def _folder_name(folder: Path) -> str:
    return Path(os.path.abspath(folder)).name or "images"


def _from_environment() -> list[Path]:
    text = os.environ.get(ENVIRONMENT, "")
    if "://" in text:
        raise ConfigError(f"{ENVIRONMENT} names folders of this machine, not addresses: {text}")
    folders = [Path(each) for each in text.split(os.pathsep) if each]
    if not folders:
        raise UnavailableError(
            f"no data folder is given and {ENVIRONMENT} is not set; give the folder or set it"
        )
    return folders


def _absent(name: str, split: str, roots: list[Path], hints: list[str]) -> str:
    known = KNOWN[name]
    if split not in known.counts:
        return f"{known.title} has no {split} split"
    return "\n".join(
        [
            f"the {split} split of {known.title} was not found",
            *(f"looked in {folder}" for folder in roots),
            *hints,
            *(f"expected {layout}" for layout in known.layouts),
            f"its authors publish it at {known.page}",
        ]
    )
