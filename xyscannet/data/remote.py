"""Data sets at addresses. Recognition looks at folders of this machine: it is shown a skeleton of empty files.

An address is listed once. Its tree is made in a temporary folder, of empty files but for RealBlur's list files, which
are fetched; what is recognised there is named by addresses again. No image is fetched.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from xyscannet.addresses import Address, Listed, fetched
from xyscannet.data.listfiles import LIST_FILE
from xyscannet.data.sets import Dataset, Sample
from xyscannet.errors import ConfigError, InputError, UnavailableError, XYScanError
from xyscannet.images import SUFFIXES

Found = TypeVar("Found", Dataset, list[Dataset])

# of names that no file here can have: too long, a file and a folder at once, one name for two, forbidden characters
_NO_NAME = {errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EILSEQ}


def seen(look: Callable[..., Found], *places: Path | Address | None) -> Found:
    """What `look`, one of `xyscannet.data.datasets`, finds in these folders, each on this machine or at an address.

    Samples and roots at an address are `Address`es, and problems name them. A key that no file here can have, or that
    leads out of its folder by .., is a problem.

    Raises:
        UnavailableError: an address is not there or cannot be reached; its package is missing; the temporary folder
            cannot be written.
        ConfigError: an address is a pattern, or of no known kind.
        and what `look` raises.
    """
    if not any(isinstance(place, Address) for place in places):
        return look(*places)
    with tempfile.TemporaryDirectory(prefix="xyscan-") as folder:
        skeleton = _Skeleton(Path(folder))
        try:
            alone = len(places) == 1
            found = look(*[skeleton.of(p, alone) if isinstance(p, Address) else p for p in places])
        except XYScanError as error:
            told = "".join(f"\n{problem}" for problem in skeleton.problems[:3])
            raise type(error)(skeleton.named(str(error)) + told) from None
        return [*map(skeleton.translated, found)] if isinstance(found, list) else skeleton.translated(found)


def listing(address: Address) -> list[Listed]:
    """All files below an address; hidden ones are left out. Raises as `seen` does."""
    try:
        if address.is_pattern:
            raise ConfigError(f"{address} is a pattern; give the address of a folder")
        listed = address.files()
    except InputError as error:
        raise UnavailableError(str(error)) from error
    if not listed and address.scheme in ("http", "https"):
        raise UnavailableError(
            f"{address} has no page that links to files, as a server's listing of a folder does"
        )
    return listed


@dataclass
class _Skeleton:
    """Trees of addresses in a folder.

    Attributes:
        names: the address of each file and folder, by its path as text.
        problems: keys that are left out.
    """

    folder: Path
    names: dict[str, Address] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def of(self, address: Address, with_beside: bool) -> Path:
        """The folder that stands for an address; its name and that of the folder above it are the address's own.

        `with_beside` adds what recognition looks for beside a folder.
        """
        parts = [part for part in address.readable.parts if part.strip("./")]
        above, name = [address.scheme, address.scheme, *parts][-2:]
        try:
            root = Path(tempfile.mkdtemp(dir=self.folder)) / above / name
            root.mkdir(parents=True)
            self._grow(root, address, listing(address))
            if with_beside:
                self._grow_beside(root, address)
        except OSError as error:
            raise UnavailableError(
                f"the temporary folder {self.folder} cannot be written: {error.strerror}"
            ) from None
        except InputError as error:  # of a list file
            raise UnavailableError(str(error)) from error
        self._name(root.parent, address.parent)
        return root

    def _name(self, folder: Path, address: Address) -> None:
        text = address.text if address.text.endswith("://") else address.text.rstrip("/")
        self.names[os.fspath(folder)] = Address(text)

    def _grow(self, root: Path, address: Address, listed: list[Listed]) -> None:
        self._name(root, address)
        for file, place, _ in listed:
            try:
                self._place(file, root, place)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                if isinstance(error, OSError) and error.errno not in _NO_NAME:
                    raise UnavailableError(
                        f"the temporary folder {self.folder} cannot be written: {reason}"
                    ) from None
                self.problems.append(f"{file} is left out: no file here can have its name ({reason})")

    def _place(self, address: Address, root: Path, place: PurePosixPath) -> None:
        if ".." in place.parts or place.is_absolute():
            self.problems.append(f"{address} is left out: its name leads out of the folder")
            return
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if LIST_FILE.fullmatch(path.name):
            with fetched(address) as copy:
                shutil.copyfile(copy, path)
        elif path.suffix.lower() in SUFFIXES:
            path.touch(exist_ok=False)
        else:
            return
        self.names[os.fspath(path)] = address
        for inside in place.parents[:-1]:
            if (folder := os.fspath(root / inside)) not in self.names:
                self.names[folder] = self.names[os.fspath(root)] / inside

    def _grow_beside(self, root: Path, address: Address) -> None:
        """The sharp images of HIDE and the list files of RealBlur."""
        if address.parent == address:
            return
        try:
            beside = address.parent.children()
        except InputError:  # it was not asked for
            return
        for child, is_folder in beside:
            if is_folder and child.name.lower() == "gt" and child.name != root.name:
                self._grow(root.parent / child.name, child, listing(child))
            elif not is_folder and LIST_FILE.fullmatch(child.name):
                self._grow(root.parent, address.parent, [Listed(child, PurePosixPath(child.name), "")])

    def named(self, text: str) -> str:
        """Text with addresses for the paths here: wherever one begins, for the longest that is known."""
        before, here, rest = text.partition(os.fspath(self.folder))
        path = next((p for n in range(len(rest), 0, -1) if (p := here + rest[:n]) in self.names), None)
        if path is None:
            return text
        return f"{before}{self.names[path]}{self.named(rest[len(path) - len(here) :])}"

    def translated(self, found: Dataset) -> Dataset:
        return replace(
            found,
            root=self.names.get(os.fspath(found.root), found.root),
            samples=tuple(map(self._sample, found.samples)),
            problems=(*self.problems, *map(self.named, found.problems)),
        )

    def _sample(self, sample: Sample) -> Sample:
        blur, sharp = (self.names.get(file and os.fspath(file), file) for file in (sample.blur, sample.sharp))
        return replace(sample, blur=blur, sharp=sharp)
