"""A file or folder that fsspec reaches: listed, looked for, fetched and stored."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

from xyscannet.addresses.buckets import missing_bucket
from xyscannet.errors import ConfigError, InputError, UnavailableError, XYScanError

_PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "http": "aiohttp",
    "https": "aiohttp",
}
_ARCHIVES = {"zip", "tar"}
_READ_ONLY = {"http", "https", "data", "github", *_ARCHIVES}
_WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}  # a file is there when it is complete
_WEB = {"http", "https"}
_DEPTH = 16  # of folders that a web server's pages link to
# what listings tell of a file's content, by the names that file systems have for it
_STATE = ("size", "ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")

logging.getLogger("gcsfs").addHandler(logging.NullHandler())  # what it logs, with tracebacks, it raises too


class Listed(NamedTuple):
    """A file in a listing: its address, its place below the folder (which may lead out of it), and what tells its
    content from another that had the name: size, date, checksum, as far as the listing has them."""

    address: Address
    place: PurePosixPath
    state: str


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
        return self._below(PurePath(place).as_posix())

    @property
    def scheme(self) -> str:
        return self.text.partition("://")[0].lower()

    @property
    def readable(self) -> PurePosixPath:
        """What follows the scheme; of a web address without its query, and with %20 as a space; of a file in an archive
        its name there."""
        return self._place(self._parts[0].partition("://")[2])

    @property
    def name(self) -> str:
        return self.readable.name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Address:
        inside, archive = self._parts
        if inside.endswith("://"):
            return self
        above, _, _ = inside.rstrip("/").rpartition("/")
        if above.endswith("/"):  # a bucket, or what lies at the top of an archive
            return Address(f"{above}/{archive}") if archive else self
        return Address(above + archive)

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

    def files(self) -> list[Listed]:
        """All files below this folder, or that this pattern fits, in order, each with its place below it (below the
        part of the pattern that is fixed). Hidden ones are left out. A web server's folder holds what its page links
        to."""
        with self._reached() as (fs, path):
            root = self
            if self.is_pattern:
                inside, archive = self._parts
                fixed = inside[: re.search(r"[*?\[]", inside).start()]
                root = Address(fixed[: fixed.rindex("/") + 1] + archive)
                found = {name: {} for name in fs.glob(path) if not fs.isdir(name)}
            else:
                found = _linked(fs, path) if self.scheme in _WEB else fs.find(path, detail=True)
                found = {name: details for name, details in found.items() if not name.endswith("/")}
                if not found:
                    fs.ls(path)  # raises the reason, if it is not that the folder is empty
            listed = [root._listed(fs, name, found[name]) for name in sorted(found)]
            return [each for each in listed if each is not None and not _hidden(each.place)]

    def children(self) -> list[tuple[Address, bool]]:
        """What lies in this folder itself, and whether it is a folder."""
        with self._reached() as (fs, path):
            found = [
                (self._listed(fs, each["name"], each), each["type"]) for each in fs.ls(path, detail=True)
            ]
            inside = [(each, kind) for each, kind in found if each is not None and len(each.place.parts) == 1]
            return [(each.address, kind == "directory") for each, kind in inside]

    def _listed(self, fs: Any, name: str, details: Mapping[str, Any]) -> Listed | None:
        """What the file system calls `name`, seen from this folder; None where it is not below it."""
        fixed = f"/{fs._strip_protocol(self._parts[0]).strip('/')}".rstrip("/") + "/"
        name = "/" + name.lstrip("/")
        if not name.startswith(fixed) or name == fixed:
            return None
        below = name[len(fixed) :]
        state = " ".join(str(details[key]) for key in _STATE if details.get(key) is not None)
        return Listed(self._below(below), self._place(below), state)

    @property
    def _parts(self) -> tuple[str, str]:
        """What names the file, and from `::` on the archive that it lies in; that is empty where it lies in none."""
        if self.scheme not in _ARCHIVES:
            return self.text, ""
        inside, colons, archive = self.text.partition("::")
        return inside, colons + archive

    def _below(self, place: str) -> Address:
        inside, archive = self._parts
        folder = inside if inside.endswith("://") else f"{inside.rstrip('/')}/"
        return Address(f"{folder}{place}{archive}")

    def _place(self, text: str) -> PurePosixPath:
        if self.scheme in _WEB:
            text = unquote(re.split(r"[?#]", text, maxsplit=1)[0])
        return PurePosixPath(text)

    @property
    def is_pattern(self) -> bool:
        """Whether it holds wildcards, and is not the name of something; in http's a ? begins the query."""
        wild = "*[" if self.scheme in _WEB else "*?["
        return any(character in self._parts[0] for character in wild) and not self.exists()

    def refuse_writing(self) -> None:
        """Raises, where it is known before anything is written, that no file can be.

        Raises:
            ConfigError: addresses of this kind are read only.
            UnavailableError: there is no such bucket, of S3 or of Google Cloud Storage.
        """
        if self.scheme in _READ_ONLY:
            raise ConfigError(f"{self.scheme} addresses can be read, not written: {self.text}")
        with self._reached() as (fs, path):
            bucket = missing_bucket(self.scheme, fs, path)
            if bucket is not None:
                raise UnavailableError(f"{self.text}: there is no bucket {bucket}: make it first")

    def _fetch(self, path: Path) -> None:
        with self._reached() as (fs, remote):
            fs.get_file(remote, os.fspath(path))

    def _store(self, path: Path) -> None:
        with self._reached() as (fs, remote):
            if self.scheme in _WHOLE:
                try:
                    fs.put_file(os.fspath(path), remote)
                except FileNotFoundError:
                    raise InputError(f"{self.text}: there is no such bucket to write to") from None
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
            raise UnavailableError(f"{self.text} needs fsspec: pip install fsspec") from None
        try:
            # listings must show what others write while this runs
            yield fsspec.core.url_to_fs(self.text, use_listings_cache=False)
        except XYScanError:
            raise
        except ImportError as error:
            package = _PACKAGES.get(self.scheme)
            hint = f"pip install {package}" if package else str(error)
            raise UnavailableError(f"{self.text} cannot be reached without a package: {hint}") from None
        except FileNotFoundError:
            raise InputError(f"{self.text}: there is no such file or folder") from None
        except PermissionError:
            raise InputError(f"{self.text}: no permission: check the credentials") from None
        except ValueError as error:
            if "Protocol not known" in str(error):
                raise ConfigError(f"{self.text}: there is no such kind of address ({self.scheme})") from None
            raise InputError(f"{self.text}: cannot be reached ({error})") from error
        except Exception as error:  # each file system has its own
            reason = str(error) or type(error).__name__
            raise InputError(f"{self.text}: cannot be reached ({reason})") from error


def _hidden(place: PurePosixPath) -> bool:
    return any(part.startswith(".") and part != ".." for part in place.parts)


def _linked(fs: Any, root: str) -> dict[str, dict[str, Any]]:
    """The files that a web server's pages link to, from the folder's own page down; fsspec's `find` would leave out
    a folder whose page fails."""
    found: dict[str, dict[str, Any]] = {}
    waiting, seen = [(root.rstrip("/") + "/", 0)], set()
    while waiting:
        folder, depth = waiting.pop()
        if folder in seen:
            continue
        if depth > _DEPTH:
            raise InputError(f"{folder}: links lead more than {_DEPTH} folders deep")
        seen.add(folder)
        try:
            links = fs.ls(folder, detail=True)
        except FileNotFoundError:
            if depth == 0:
                raise
            continue  # a dead link
        for link in links:
            below = link["name"][len(folder) :]
            if not link["name"].startswith(folder) or {".", ".."} & set(below.split("/")):
                continue
            if link["type"] == "directory":
                waiting.append((link["name"], depth + 1))
            else:
                found[link["name"]] = link
    return found
