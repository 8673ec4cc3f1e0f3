"""Files that are written whole or not at all, and folders that one run at a time writes to."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

from xyscannet.errors import ConfigError, InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_HIDDEN = re.compile(r"\.[0-9a-f]{16}\.part")
_STREAM = re.compile(r"/dev/(?:std(?:in|out|err)|fd/\d+)|/proc/[^/]+/fd/\d+")
_REASONS = {
    errno.ENOSPC: "no space left on the disk: free some or write elsewhere",
    errno.EDQUOT: "the disk quota is used up: free some space or write elsewhere",
    errno.EFBIG: "the file would be larger than the system allows: check the file size limit",
    errno.EACCES: "no permission to write there: check the folder's rights",
    errno.EPERM: "no permission to write there: check the folder's rights",
    errno.EROFS: "the file system is read-only: write elsewhere",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is too long",
}


def shown(path: str | os.PathLike[str]) -> str:
    """A path for a message: control characters and undecodable bytes escaped."""
    text = "".join(c if c.isprintable() or c == "\u00a0" else repr(c)[1:-1] for c in os.fspath(path))
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def reason(error: OSError) -> str:
    """Why the system refused to write, and what to do about it."""
    return _REASONS.get(error.errno, error.strerror or str(error))


def is_stream(path: str | Path) -> bool:
    """Whether a path is a pipe, a device or a link to one, such as /dev/stdout, which is written to as it stands."""
    path = Path(path)
    return _leads_to_a_stream(path) or (path.exists() and not path.is_file() and not path.is_dir())


def _leads_to_a_stream(path: Path) -> bool:
    """Whether any of the names that links give it is that of an open stream: what is behind it may be a file."""
    for _ in range(40):
        if _STREAM.fullmatch(str(path.absolute())):
            return True
        if not path.is_symlink():
            return False
        path = path.parent / path.readlink()
    return False


@contextlib.contextmanager
def replacing(path: str | Path, *, parents: bool = False) -> Iterator[Path]:
    """A hidden file in a file's folder, to write to; it comes to the disk and is moved into place if all goes well.

    Missing folders are made with `parents`. The file's mode follows the umask. Raises InputError for what the system
    refuses; nothing is left then, and an earlier file is untouched.
    """
    path = Path(path)
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise InputError(f"{shown(path)}: there is a folder with this name: choose another")
        with _hidden(path.absolute().parent) as temporary:
            try:
                yield temporary
                with open(temporary, "rb+") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be written: {reason(error)}") from error


@contextlib.contextmanager
def _hidden(folder: Path) -> Iterator[Path]:
    """A new file under a hidden name, locked, so that `remove_leftovers` sees that it is being written."""
    while True:
        path = folder / f".{secrets.token_hex(8)}.part"
        if fcntl is None:
            yield path
            return
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            with contextlib.suppress(OSError):  # a file system without locks
                if not locked(handle) or os.fstat(handle).st_nlink == 0:  # taken for a leftover just now
                    continue
            yield path
            return
        finally:
            os.close(handle)


def remove_leftovers(folder: str | Path) -> None:
    """Remove from a folder what processes that were killed had begun to write there.

    Where the file system has no locks, nobody can tell them from what is being written, and they stay.
    """
    if fcntl is None:
        return
    with contextlib.suppress(OSError):  # a folder that is not there, say, or may not be read
        for name in os.listdir(folder):
            if _HIDDEN.fullmatch(name):
                _remove_if_abandoned(Path(folder) / name)


def _remove_if_abandoned(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or of another user
        handle = os.open(path, os.O_RDWR)
        try:
            if locked(handle):
                path.unlink()
        finally:
            os.close(handle)


def write_bytes(path: str | Path, data: bytes) -> None:
    """`replacing` for bytes that are at hand, of what a link leads to; a stream takes them as it stands.

    Raises InputError as it does.
    """
    if not is_stream(path):
        with replacing(Path(path).resolve() if Path(path).is_symlink() else path) as temporary:
            temporary.write_bytes(data)
        return
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise InputError(f"{shown(path)}: cannot be written: {reason(error)}") from error


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of UTF-8; undecodable bytes of names are escaped, in JSON such that they are read back."""
    write_bytes(path, text.encode(errors="backslashreplace"))


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """While entered, no other run writes to the folder, which is made where it is missing.

    The system lets go of it when the process ends, in whatever way; nothing is left in the folder, and what was made
    of its path and stayed empty goes away again; what killed runs had begun to write goes away now. Where the file
    system has no locks, nothing is held.

    Raises ConfigError while another run holds it, and where it cannot be made.
    """
    folder = Path(folder)
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise ConfigError(f"the folder {folder} cannot be written: {failure.strerror or failure}") from None
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a folder that may be written to and not read, say
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                if not locked(handle):
                    raise ConfigError(
                        f"another run is writing to {folder}: wait until it has ended, or choose another folder"
                    )
        stack.callback(_remove_empty, missing)
        remove_leftovers(folder)
        yield


def locked(handle: int) -> bool:
    """Whether the lock on an open file is ours now; raises OSError where there are no locks."""
    if fcntl is None:
        raise OSError("the system has no such locks")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove a folder, and those that it was in, up to the first that holds something."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
