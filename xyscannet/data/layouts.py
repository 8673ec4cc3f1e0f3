"""Finds data sets in a folder by looking at it: known folder names, pairs of folders, sequences and list files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from xyscannet.data.pairs import Pair, entries, image_files, match
from xyscannet.data.sets import (
    REALBLUR,
    SPLITS,
    Dataset,
    Sample,
    agree,
    by_contents,
    by_folder,
    group_of,
    plain,
)
from xyscannet.errors import InputError

ROLES = (("blur", "sharp"), ("blur", "gt"), ("input", "target"), ("testa", "testb"), ("traina", "trainb"))
GAMMA_ROLES = (("blur_gamma", "sharp"),)
CLOSE_LONG = ("test-close-ups", "test-long-shot")

_CONTAINERS = frozenset({"datasets", "dataset", "data", "deblurring", "motiondeblurring"})
_LIST = re.compile(r"realblur[-_]?([jr])_(test|train)_list\.txt", re.IGNORECASE)
_ONE_SPLIT = {"testa": "test", "traina": "train"}
_DEPTH = 6


@dataclass
class Search:
    """One walk through the folders of known names below `root`.

    Attributes:
        found: the sets; `name` is empty, or REALBLUR, where the set is not known for sure.
        hints: what lies there and is of no use, with the reason.
    """

    root: Path
    gamma: bool = False
    found: list[Dataset] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        full = Path(os.path.abspath(self.root))
        above = full.parts[-3:]  # RealBlur/test/RealBlur_J, GoPro/test
        names = [known for part in above if (known := by_folder(part)) is not None]
        parts = [part.lower() for part in above[1:] if part.lower() in SPLITS]
        near = by_folder(above[-1]) or (by_folder(full.parent.name) if above[-1].lower() in SPLITS else None)
        known = near or (names[-1] if len(above) > 1 and by_folder(above[-1]) else None)
        self._visit(self.root, known, parts[-1] if parts else None, frozenset())

    def _visit(self, folder: Path, known: str | None, split: str | None, above: frozenset[str]) -> None:
        here = os.path.realpath(folder)
        if here in above or len(above) > _DEPTH:
            return
        children, files = self._look(folder)
        listed = self._lists(folder, files, known)
        paired = self._folders(folder, children, known, split)
        paired |= self._close_and_long(folder, children, known) or self._beside_gt(folder, known, split)
        if known == "rwbi" and not paired:
            self._add(known, "test", "blurred images only", folder, unpaired(folder), [])
        for key, child in children.items():
            inner = by_folder(key)
            if key in SPLITS:
                self._visit(child, known, key, above | {here})
            elif plain(key) in _CONTAINERS and known is None:
                self._visit(child, None, split, above | {here})
            elif inner and agree(known, inner) and inner != known and inner not in listed:
                self._visit(child, inner, split, above | {here})

    def _look(self, folder: Path) -> tuple[dict[str, Path], list[Path]]:
        """Subfolders by name in lower case, and files."""
        children: dict[str, Path] = {}
        files = []
        for entry in entries(folder):
            path, key = folder / entry.name, entry.name.lower()
            if not entry.is_dir():
                files.append(path)
            elif key in children:
                self.hints.append(
                    f"{path} and {children[key].name} differ only in case: the first is not used"
                )
            else:
                children[key] = path
        return children, files

    def _folders(self, folder: Path, children: dict[str, Path], known: str | None, split: str | None) -> bool:
        """{blur,sharp} and the like, here or in every sequence; tells whether there are any."""
        count = len(self.found)
        for roles in GAMMA_ROLES if self.gamma else ROLES:
            if all(role in children for role in roles):
                blur, sharp = (children[role] for role in roles)
                pairs, problems = match(blur, sharp)
                layout = f"{{{blur.name},{sharp.name}}}"
                self._add(
                    known, split or _ONE_SPLIT.get(roles[0]), layout, folder, samples_of(pairs), problems
                )
        here = [child for key, child in children.items() if key not in {*SPLITS, "gt"} and not by_folder(key)]
        for roles in () if len(self.found) > count else GAMMA_ROLES if self.gamma else ROLES[:3]:
            self._sequences(folder, here, roles, known, split)
        return len(self.found) > count

    def _sequences(
        self,
        folder: Path,
        sequences: list[Path],
        roles: tuple[str, str],
        known: str | None,
        split: str | None,
    ) -> None:
        pairs, problems, whole, names = [], [], 0, roles
        for sequence in sequences:
            inside = {
                entry.name.lower(): sequence / entry.name for entry in entries(sequence) if entry.is_dir()
            }
            if all(role in inside for role in roles):
                blur, sharp = (inside[role] for role in roles)
                found, wrong = match(blur, sharp)
                pairs += [Pair(f"{sequence.name}/{pair.name}", pair.blur, pair.sharp) for pair in found]
                problems += wrong
                whole, names = whole + 1, (blur.name, sharp.name)
            else:
                missing = ", ".join(role for role in roles if role not in inside)
                problems.append(f"{sequence} holds no folder {missing}")
        if whole:
            layout = f"SEQUENCE/{{{','.join(names)}}}"
            self._add(known, split, layout, folder, samples_of(pairs), problems)

    def _close_and_long(self, folder: Path, children: dict[str, Path], known: str | None) -> bool:
        """HIDE's test images as they are published: two folders, sharp images in GT here or one above."""
        views = [children[view] for view in CLOSE_LONG if view in children]
        if not views or not agree(known, "hide"):
            return False
        sharp = children.get("gt") or self._sibling_gt(folder)
        if sharp is None:
            self.hints.append(f"{folder} holds {views[0].name}, but no folder GT lies in it or beside it")
            return True
        pairs, problems = (
            [],
            [f"{folder} holds no folder {view}" for view in CLOSE_LONG if view not in children],
        )
        for view in views:
            found, wrong = match(view, sharp, spare_sharp=True)
            pairs += [Pair(f"{view.name}/{pair.name}", pair.blur, pair.sharp) for pair in found]
            problems += wrong
        layout = f"{{{','.join(CLOSE_LONG)}}} and GT"
        self._add("hide", "test", layout, folder, samples_of(pairs), problems)
        return True

    def _beside_gt(self, folder: Path, known: str | None, split: str | None) -> bool:
        """HIDE's training images as they are published: train/* beside GT."""
        sharp = self._sibling_gt(folder) if known == "hide" and split else None
        if sharp is None or not image_files(folder, deep=False):
            return False
        pairs, problems = match(folder, sharp, deep=False, spare_sharp=True)
        self._add(known, split, f"{folder.name} and GT", folder, samples_of(pairs), problems)
        return True

    @staticmethod
    def _sibling_gt(folder: Path) -> Path | None:
        beside = folder.parent
        return next((beside / e.name for e in entries(beside) if e.name.lower() == "gt" and e.is_dir()), None)

    def _lists(self, folder: Path, files: list[Path], known: str | None) -> set[str]:
        """RealBlur by the authors' list files, here or beside; the sets that have one."""
        published = known is not None and known.startswith("realblur-") and plain(folder.name) != plain(known)
        if published and folder == self.root:
            files = files + [folder.parent / entry.name for entry in entries(folder.parent)]
        listed = set()
        for path in files:
            named = _LIST.fullmatch(path.name)
            if named and agree(known, name := f"{REALBLUR}-{named[1].lower()}"):
                samples, problems = read_list(path)
                self._add(name, named[2].lower(), f"list file {path.name}", path.parent, samples, problems)
                listed.add(name)
        return listed

    def _add(
        self,
        known: str | None,
        split: str | None,
        layout: str,
        root: Path,
        samples: Iterable[Sample],
        problems: list[str],
    ) -> None:
        samples = tuple(sorted(samples, key=lambda sample: sample.name))
        if not samples and not problems:
            self.hints.append(f"{root} ({layout}) holds no images")
            return
        contents = by_contents([sample.name for sample in samples])
        if not agree(known, contents):
            problems = [f"{root}: the files are named like those of {contents}", *problems]
        name = known if known and known != REALBLUR else contents or known or ""
        self.found.append(Dataset(name, "", split or "", layout, root, samples, None, tuple(problems)))


def samples_of(pairs: Iterable[Pair]) -> list[Sample]:
    """Pairs as samples."""
    return [Sample(pair.name, pair.blur, pair.sharp, group_of(pair.name)) for pair in pairs]


def unpaired(folder: Path) -> list[Sample]:
    """All images below a folder as samples without sharp partners; files of one stem are named with the suffix."""
    files = image_files(folder)
    short = [path.relative_to(folder).with_suffix("").as_posix() for path in files]
    full = [path.relative_to(folder).as_posix() for path in files]
    taken = {name for name in short if short.count(name) > 1} if len(set(short)) < len(short) else set()
    names, used = [], set(short) - taken
    for stem, whole in zip(short, full, strict=True):
        name = whole if stem in taken else stem
        while stem in taken and name in used:
            name += "_"
        used.add(name)
        names.append(name)
    return [Sample(name, path, None, group_of(name)) for name, path in zip(names, files, strict=True)]


def read_list(path: Path) -> tuple[list[Sample], list[str]]:
    """The pairs of a list file, `sharp-path blur-path [...]` a line, below its folder, and what is wrong with it.

    Raises InputError for a file that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    samples: dict[str, Sample] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        fault, pair = None, [path.parent / text for text in fields[:2]]
        if len(fields) < 2:
            fault = "holds one path; expected sharp-path blur-path"
        elif unsafe := [text for text in fields[:2] if _leaves(text)]:
            fault = f"leads out of the folder: {unsafe[0]}"
        elif missing := [each for each in pair if not each.is_file()]:
            fault = f"names {missing[0]}, which does not exist"
        else:
            name = _listed_name(fields[1])
            if name in samples:
                fault = f"repeats {fields[1]}"
            else:
                samples[name] = Sample(name, pair[1], pair[0], group_of(name))
        if fault:
            problems.append(f"{path} line {number} {fault}")
    return list(samples.values()), problems


def _leaves(text: str) -> bool:
    return (
        text.startswith(("/", "\\")) or bool(re.match(r"[A-Za-z]:", text)) or ".." in re.split(r"[/\\]", text)
    )


def _listed_name(text: str) -> str:
    """`RealBlur-J_.../scene001/blur/blur_1.png` -> `scene001/blur_1`."""
    parts = Path(text).with_suffix("").parts
    inner = [part for part in parts[:-1] if part.lower() != "blur" and by_folder(part) is None]
    return "/".join([*inner, parts[-1]])
