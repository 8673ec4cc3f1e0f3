"""Finds data sets in a folder by looking at it: known folder names, pairs of folders, sequences and list files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from xyscannet.data.listfiles import LIST_FILE, read_list
from xyscannet.data.pairs import Pair, entries, image_files, match
from xyscannet.data.sets import (
    KNOWN,
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
from xyscannet.errors import ConfigError, InputError

ROLES = (("blur", "sharp"), ("blur", "gt"), ("input", "target"), ("testa", "testb"), ("traina", "trainb"))
GAMMA_ROLES = (("blur_gamma", "sharp"),)
CLOSE_LONG = ("test-close-ups", "test-long-shot")

SEQUENCES = "SEQUENCE/"
"""What the description of a layout begins with where every sequence has its own pair of folders."""

_RELEVANT = frozenset(
    {*SPLITS, *CLOSE_LONG, "gt", *(role for roles in ROLES + GAMMA_ROLES for role in roles)}
)
_CONTAINERS = frozenset({"datasets", "dataset", "data", "deblurring", "motiondeblurring"})
_SCENES = {f"realblur{each}eccimcorrcentroiditensityref" for each in ("j", "rbm3d")}
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
        here, above = full.name.lower(), full.parent.name.lower()
        if here in SPLITS:  # GoPro/test
            self._visit(self.root, by_folder(above), here, frozenset())
        else:  # GoPro, or test/GoPro
            known = by_folder(here)
            self._visit(self.root, known, above if known and above in SPLITS else None, frozenset())

    def _visit(self, folder: Path, known: str | None, split: str | None, above: frozenset[str]) -> None:
        real = os.path.realpath(folder)
        if real in above or len(above) > _DEPTH:
            return
        children, files = _look(folder)
        listed = self._lists(folder, files, known)
        if not (known in listed and _by_list_only(folder)):
            paired = self._pairs(folder, children, known, split)
            paired |= self._sequences(folder, children, known, split)
            paired |= self._close_and_long(folder, children, known) or self._beside_gt(folder, known, split)
            if known == "rwbi" and not paired:
                self._add(known, "test", "blurred images only", folder, unpaired(folder), [])
                return
        for key, child in children.items():
            inner = by_folder(key)
            if key in SPLITS:
                self._visit(child, known, key, above | {real})
            elif plain(key) in _CONTAINERS:
                self._visit(child, known, split, above | {real})
            elif inner and agree(known, inner) and not (inner in listed and _by_list_only(child)):
                narrowed = known if known and inner == REALBLUR else inner
                self._visit(child, narrowed, split, above | {real})

    def _pairs(self, folder: Path, children: dict[str, Path], known: str | None, split: str | None) -> bool:
        """{blur,sharp} and the like in the folder itself; tells whether there are any."""
        some = False
        for roles in self._roles:
            if all(role in children for role in roles):
                blur, sharp = (children[role] for role in roles)
                pairs, problems = match(blur, sharp)
                layout = f"{{{blur.name},{sharp.name}}}"
                self._add(
                    known, split or _ONE_SPLIT.get(roles[0]), layout, folder, samples_of(pairs), problems
                )
                some = True
        if not some and any(blur in children for blur, _ in self._roles):
            self.hints.append(f"{folder} has blurred images, but no folder of sharp ones beside them")
        return some

    def _sequences(
        self, folder: Path, children: dict[str, Path], known: str | None, split: str | None
    ) -> bool:
        """{blur,sharp} and the like in every subfolder; tells whether there are any."""
        inside: dict[Path, dict[str, Path]] = {}
        for key, child in children.items():
            if may_be_sequence(key):
                try:
                    inside[child] = _look(child)[0]
                except InputError as error:
                    self.hints.append(str(error))
        some = False
        for roles in self._roles:
            pairs, problems, names = [], [], None
            for sequence, folders in inside.items():
                missing = [role for role in roles if role not in folders]
                if not missing:
                    names = [folders[role].name for role in roles]
                    found, wrong = match(folders[roles[0]], folders[roles[1]])
                    pairs += [Pair(f"{sequence.name}/{pair.name}", pair.blur, pair.sharp) for pair in found]
                    problems += wrong
                elif len(missing) < len(roles) or by_contents([sequence.name]):
                    problems.append(f"{sequence} holds no folder {' and no folder '.join(missing)}")
            if names and known and known.startswith(REALBLUR) and split is None:
                problems.append(
                    f"{folder}: no list file RealBlur_*_{{test,train}}_list.txt beside it tells its splits"
                )
                self.hints.append(problems[-1])
                self._add(
                    known, "all", f"sceneNNN/{{{','.join(names)}}}", folder, samples_of(pairs), problems
                )
            elif names:
                self._add(
                    known, split, f"{SEQUENCES}{{{','.join(names)}}}", folder, samples_of(pairs), problems
                )
            some |= names is not None
        first = {roles[0] for roles in self._roles}
        lonely = [folder for folder, folders in inside.items() if first & folders.keys() and not some]
        if lonely:
            self.hints.append(f"{lonely[0]} has blurred images, but no folder of sharp ones beside them")
        return some

    @property
    def _roles(self) -> tuple[tuple[str, str], ...]:
        return GAMMA_ROLES if self.gamma else ROLES

    def _close_and_long(self, folder: Path, children: dict[str, Path], known: str | None) -> bool:
        """HIDE's test images as they are published: two folders, sharp images in GT here or one above."""
        views = [children[view] for view in CLOSE_LONG if view in children]
        if not views or not agree(known, "hide"):
            return False
        sharp = children.get("gt") or self._sibling_gt(folder)
        if sharp is None:
            self.hints.append(f"{folder} holds {views[0].name}, but no folder GT lies in it or beside it")
            return True
        pairs = []
        problems = [f"{folder} holds no folder {view}" for view in CLOSE_LONG if view not in children]
        for view in views:
            found, wrong = match(view, sharp, spare_sharp=True)
            pairs += [Pair(f"{view.name}/{pair.name}", pair.blur, pair.sharp) for pair in found]
            problems += wrong
        layout = f"{{{','.join(CLOSE_LONG)}}} and GT"
        self._add("hide", "test", layout, folder, samples_of(pairs), problems)
        return True

    def _beside_gt(self, folder: Path, known: str | None, split: str | None) -> bool:
        """HIDE's training images as they are published: train/* beside GT."""
        if not split or not agree(known, "hide") or not image_files(folder, deep=False):
            return False
        sharp = self._sibling_gt(folder)
        if sharp is None:
            return False
        pairs, problems = match(folder, sharp, deep=False, spare_sharp=True)
        self._add(known, split, f"{folder.name} and GT", folder, samples_of(pairs), problems)
        return True

    @staticmethod
    def _sibling_gt(folder: Path) -> Path | None:
        beside = entries(folder.absolute().parent)
        return next((path for path, is_folder in beside if is_folder and path.name.lower() == "gt"), None)

    def _lists(self, folder: Path, files: list[Path], known: str | None) -> set[str]:
        """RealBlur by the authors' list files, here or beside its folder of scenes; the sets that have one."""
        if folder == self.root and _by_list_only(folder):
            files = files + [path for path, _ in entries(folder.absolute().parent)]
        listed = set()
        for path in files:
            named = LIST_FILE.fullmatch(path.name)
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
            title = KNOWN[contents].title if contents in KNOWN else "RealBlur"
            problems = [f"{root}: the files are named like those of {title}", *problems]
        name = known if known and known != REALBLUR else contents or known or ""
        self.found.append(Dataset(name, "", split or "", layout, root, samples, None, tuple(problems)))


def _by_list_only(folder: Path) -> bool:
    """RealBlur's folder of scenes as published: only list files tell its splits."""
    return plain(folder.absolute().name) in _SCENES


def _look(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """Subfolders by name in lower case, and files. Raises ConfigError for two folders where one is expected."""
    children: dict[str, Path] = {}
    files = []
    for path, is_folder in entries(folder):
        key = path.name.lower()
        if not is_folder:
            files.append(path)
        elif key not in children:
            children[key] = path
        elif key in _RELEVANT or by_folder(key):
            raise ConfigError(f"{path} and {children[key].name} differ only in case; rename or remove one")
        else:
            children[path.name] = path
    return children, files


def may_be_sequence(folder: str) -> bool:
    """Whether a folder of this name, in lower case, is none that is looked into for another reason."""
    return folder not in _RELEVANT and plain(folder) not in _CONTAINERS and not by_folder(folder)


def samples_of(pairs: Iterable[Pair]) -> list[Sample]:
    """Pairs as samples."""
    return [Sample(pair.name, pair.blur, pair.sharp, group_of(pair.name)) for pair in pairs]


def unpaired(folder: Path) -> list[Sample]:
    """All images below a folder as samples without sharp partners; files of one stem are named with the suffix."""
    files = image_files(folder)
    counts = Counter(path.relative_to(folder).with_suffix("").as_posix() for path in files)
    names: dict[str, Path] = {}
    for path in files:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if counts[name] > 1:
            name = path.relative_to(folder).as_posix()
            while name in counts or name in names:
                name += "_"
        names[name] = path
    return [Sample(name, path, None, group_of(name)) for name, path in names.items()]
