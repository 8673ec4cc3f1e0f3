"""Files that are written whole or not at all, and folders that one run at a time writes to."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from xyscannet.errors import ConfigError, InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def is_stream(path: str | Path) -> bool:
    """Whether a path is a pipe or a device, such as /dev/stdout, which is written to as it stands."""
    path = Path(path)
    return path.exists() and not path.is_file() and not path.is_dir()


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write under a temporary name in the same folder and move it into place; a stream takes the bytes as it stands.

    Raises InputError where that is not possible; a file that stood there before is then untouched.
    """
    path, temporary = Path(path), None
    try:
        if is_stream(path):
            path.write_bytes(data)
            return
        with tempfile.NamedTemporaryFile(
            dir=path.absolute().parent, prefix=f".{path.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
    except OSError as failure:
        raise InputError(f"{path}: cannot be written: {failure.strerror or failure}") from None
    finally:
        if temporary is not None:
            os.unlink(temporary)


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` of UTF-8."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """While entered, no other run writes to the folder, which is made where it is missing.

    The system lets go of it when the process ends, in whatever way; nothing is left in the folder, and one that was
    made and stayed empty goes away again. Where the file system has no locks, nothing is held.

    Raises ConfigError while another run holds it, and where it cannot be made.
    """
    folder = Path(folder)
    missing = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise ConfigError(f"the folder {folder} cannot be written: {failure.strerror or failure}") from None
    with contextlib.ExitStack() as stack:
        if missing:
            stack.callback(_remove_if_empty, folder)
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a folder that may be written to and not read, say
                handle = os.open(folder, os.O_RDONLY)
                stack.callback(os.close, handle)
                if not _locked(handle):
                    raise ConfigError(
                        f"another run is writing to {folder}: wait until it has ended, or choose another folder"
                    )
        yield


def _locked(handle: int) -> bool:
    """Whether the lock is ours now; raises OSError where there are none."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
