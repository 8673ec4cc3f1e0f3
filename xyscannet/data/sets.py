"""The deblurring data sets that are known by name, and what a set consists of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from xyscannet.addresses import Address

SPLITS = ("test", "train")


@dataclass(frozen=True)
class Sample:
    """One blurred image; `sharp` is None in a set without sharp images.

    Attributes:
        name: relative posix path without suffix, unique in its set.
        blur, sharp: files; addresses only where `xyscannet.data.remote` found the set.
        group: sequence, scene, burst or folder that the image belongs to; empty where there is none.
    """

    name: str
    blur: Path | Address
    sharp: Path | Address | None
    group: str


@dataclass(frozen=True)
class Dataset:
    """One split of a data set as it lies on the disk, or at an address.

    Attributes:
        name: `gopro`, ... of a known set, else the folder's name.
        title: the name for people.
        split: `test`, `train`, `all` where a set's splits cannot be told apart, or empty.
        layout: which layout was recognised.
        root: the folder that holds the split, or its address.
        samples: sorted by name.
        expected: number of samples that the set's authors publish for the split; None where unknown.
        problems: files without a partner or with several, list lines without files, a wrong count.
    """

    name: str
    title: str
    split: str
    layout: str
    root: Path | Address
    samples: tuple[Sample, ...]
    expected: int | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """What is known of a published set.

    Attributes:
        counts: published number of samples of each split.
        folders: names its folder goes by, in the form of `plain`.
        layouts: the layouts it is found in.
        page: where its authors publish it.
    """

    title: str
    counts: dict[str, int]
    folders: frozenset[str]
    layouts: tuple[str, ...]
    page: str


_FLAT = ("{test,train}/{blur,sharp}/*", "{test,train}/{input,target}/*")


def _realblur(letter: str, folder: str) -> Known:
    return Known(
        title=f"RealBlur-{letter}",
        counts={"test": 980, "train": 3758},
        folders=frozenset({f"realblur{letter.lower()}", plain(folder)}),
        layouts=(
            f"RealBlur_{letter}_{{test,train}}_list.txt beside {folder}/sceneNNN/{{blur,gt}}/*",
            "{test/{testA,testB},train/{trainA,trainB}}/*",
            *_FLAT,
        ),
        page="https://cg.postech.ac.kr/research/realblur",
    )


def plain(name: str) -> str:
    """A folder's name in lower case without separators: `RealBlur_J` and `realblur-j` are one."""
    return re.sub(r"[\W_]+", "", name.lower())


KNOWN: dict[str, Known] = {
    "gopro": Known(
        title="GoPro",
        counts={"test": 1111, "train": 2103},
        folders=frozenset({"gopro", "goprolarge", "goprodataset"}),
        layouts=("{test,train}/SEQUENCE/{blur,blur_gamma,sharp}/*", *_FLAT, "test/{testA,testB}/*"),
        page="https://seungjunnah.github.io/Datasets/gopro",
    ),
    "hide": Known(
        title="HIDE",
        counts={"test": 2025, "train": 6397},
        folders=frozenset({"hide", "hidedataset"}),
        layouts=("test/{test-close-ups,test-long-shot}/*, train/* and GT/*", *_FLAT),
        page="https://github.com/joanshen0508/HA_deblur",
    ),
    "rwbi": Known(
        title="RWBI",
        counts={"test": 3112},
        folders=frozenset({"rwbi", "rwbidataset"}),
        layouts=("RWBI/*", "RWBI/BURST/*"),
        page="https://github.com/HDCVLab/Deblurring-by-Realistic-Blurring",
    ),
    "realblur-j": _realblur("J", "RealBlur-J_ECC_IMCORR_centroid_itensity_ref"),
    "realblur-r": _realblur("R", "RealBlur-R_BM3D_ECC_IMCORR_centroid_itensity_ref"),
}
NAMES: tuple[str, ...] = tuple(KNOWN)
REALBLUR = "realblur"
"""RealBlur where a folder does not tell -J from -R."""

_FAMILY = frozenset({"realblur", "realblurdataset"})
# what the names of files and sequences give away
_SIGNS = (
    ("gopro", re.compile(r"^(GOPR\d+_\d+_\d+)", re.IGNORECASE)),
    ("hide", re.compile(r"^\d+(fromGOPR\d+)", re.IGNORECASE)),
    (REALBLUR, re.compile(r"^(scene\d+)", re.IGNORECASE)),
)


def by_folder(name: str) -> str | None:
    """The set, or REALBLUR, that a folder of this name holds by convention."""
    key = plain(name)
    known = next((each for each, facts in KNOWN.items() if key in facts.folders), None)
    return known or (REALBLUR if key in _FAMILY else None)


def by_contents(names: list[str]) -> str | None:
    """The set, or REALBLUR, whose files are named like all these samples."""
    for known, sign in _SIGNS:
        if names and all(any(sign.match(part) for part in name.split("/")) for name in names):
            return known
    return None


def group_of(name: str) -> str:
    """The folder in a sample's name, else the sequence or scene that its file name begins with."""
    folder, _, stem = name.rpartition("/")
    if folder:
        return folder
    found = next((match for known, sign in _SIGNS if known != "hide" and (match := sign.match(stem))), None)
    return found[1] if found else ""


def agree(known: str | None, other: str | None) -> bool:
    """Whether two findings can be of one set; None agrees with all."""
    if known is None or other is None or known == other:
        return True
    return REALBLUR in (known, other) and known.startswith(REALBLUR) and other.startswith(REALBLUR)
