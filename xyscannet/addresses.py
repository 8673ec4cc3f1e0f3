"""Files that are named by an address, s3://, gs://, http://, memory:// and whatever else fsspec knows, beside paths."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from xyscannet.errors import ConfigError, InputError, UnavailableError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
}
_READ_ONLY = {"http", "https", "data", "github", "zip", "tar"}
_WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}  # a file is there when it is complete


@dataclass(frozen=True)
class Address:
    """A file or folder that fsspec reaches; what this package asks of a `Path`, it answers too.

    `os.fspath` gives its text, for messages and records: no file of this machine has that name.

    Raises, in all that reaches for it:
        UnavailableError: the package for this kind of address is not installed.
        ConfigError: there is no such kind.
        InputError: it cannot be reached, read or written.
    """

    text: str

    def __fspath__(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, place: PurePath | str) -> Address:
        return Address(f"{self.text.rstrip('/')}/{PurePath(place).as_posix()}")

    @property
    def scheme(self) -> str:
        return self.text.partition("://")[0].lower()

    @property
    def name(self) -> str:
        return PurePosixPath(self.text.partition("://")[2].partition("?")[0]).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Address:
        head, _, _ = self.text.rstrip("/").rpartition("/")
        return self if head.endswith("/") else Address(head)

    def is_absolute(self) -> bool:
        return True

    def is_symlink(self) -> bool:
        return False

    def resolve(self) -> Address:
        return self

    def exists(self) -> bool:
        with self._reached() as (fs, path):
            return fs.exists(path)

    def is_dir(self) -> bool:
        with self._reached() as (fs, path):
            return fs.isdir(path)

    def files(self) -> list[tuple[Address, PurePosixPath]]:
        """All files below this folder, or that this pattern fits, in order, and each one's place below it (below the
        part of the pattern that is fixed). Hidden ones are left out. A place may lead out of the folder."""
        with self._reached() as (fs, path):
            root = self
            if self.is_pattern:
                root = Address(self.text[: re.search(r"[*?\[]", self.text).start()].rpartition("/")[0])
                names = [name for name in fs.glob(path) if not fs.isdir(name)]
            else:
                names = fs.find(path)
            fixed = fs._strip_protocol(root.text).rstrip("/") + "/"
            places = [PurePosixPath(name[len(fixed) :]) for name in sorted(names) if name.startswith(fixed)]
            return [
                (root / place, place)
                for place in places
                if not any(part.startswith(".") and part != ".." for part in place.parts)
            ]

    @property
    def is_pattern(self) -> bool:
        """Whether it holds wildcards; in http's a ? begins the query."""
        wild = "*[" if self.scheme in ("http", "https") else "*?["
        return any(character in self.text for character in wild)

    def refuse_writing(self) -> None:
        """Raises ConfigError where no file can be written."""
        if self.scheme in _READ_ONLY:
            raise ConfigError(f"{self.scheme} addresses can be read, not written: {self.text}")
        with self._reached():
            pass

    def _fetch(self, path: Path) -> None:
        with self._reached() as (fs, remote):
            fs.get_file(remote, os.fspath(path))

    def _store(self, path: Path) -> None:
        with self._reached() as (fs, remote):
            if self.scheme in _WHOLE:
                fs.put_file(os.fspath(path), remote)
                return
            folder, _, _ = remote.rpartition("/")
            temporary = f"{folder}/.{secrets.token_hex(8)}.part"
            fs.makedirs(folder, exist_ok=True)
            try:
                fs.put_file(os.fspath(path), temporary)
                fs.mv(temporary, remote)
            except BaseException:
                with contextlib.suppress(Exception):
                    fs.rm_file(temporary)
                raise

    @contextlib.contextmanager
    def _reached(self) -> Iterator[tuple[Any, str]]:
        """The file system and the name in it; what goes wrong becomes an error of ours."""
        try:
            import fsspec
        except ImportError:
            raise UnavailableError(f'{self.text} needs fsspec: pip install "xyscannet[cluster]"') from None
        try:
            # listings must show what others write while this runs
            yield fsspec.core.url_to_fs(self.text, use_listings_cache=False)
        except (ConfigError, InputError):
            raise
        except ImportError as error:
            package = _PACKAGES.get(self.scheme)
            hint = f"pip install {package}" if package else str(error)
            raise UnavailableError(f"{self.text} cannot be reached without a package: {hint}") from None
        except FileNotFoundError:
            raise InputError(f"{self.text}: there is no such file") from None
        except PermissionError:
            raise InputError(f"{self.text}: no permission: check the credentials") from None
        except ValueError as error:
            if "Protocol not known" in str(error):
                raise ConfigError(f"{self.text}: there is no such kind of address ({self.scheme})") from None
            raise InputError(f"{self.text}: cannot be reached ({error})") from error
        except Exception as error:  # each file system has its own
            reason = str(error) or type(error).__name__
            raise InputError(f"{self.text}: cannot be reached ({reason})") from error


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
    """The file itself, or a copy of it on this machine for the length of the block. InputErrors name the address."""
    if isinstance(place, Address):
        with _copy(place) as path:
            place._fetch(path)
            yield path
    else:
        yield place


@contextlib.contextmanager
def stored(place: Path | Address) -> Iterator[Path]:
    """The file itself, or one on this machine that goes to the address, whole, if the block ends well."""
    if isinstance(place, Address):
        with _copy(place) as path:
            yield path
            place._store(path)
    else:
        yield place


@contextlib.contextmanager
def _copy(address: Address) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="xyscan-") as folder:
        path = Path(folder) / f"file{address.suffix}"
        try:
            yield path
        except InputError as error:
            raise InputError(str(error).replace(os.fspath(path), address.text)) from error
