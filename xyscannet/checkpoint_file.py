"""A checkpoint's file: safetensors with the configuration in the header, or a ``.pth``, told apart by content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import safetensors
import safetensors.torch

from xyscannet.authors import State, read_pth
from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.files import replacing
from xyscannet.models import XYScanNetConfig

VERSION = 1
RESERVED = ("format", "checkpoint_version", "config")


class Content(NamedTuple):
    """What a file holds: tensors of the stored type, ``metadata`` the free text of a header."""

    config: XYScanNetConfig
    state: State
    metadata: dict[str, str]
    sha256: str


def read_file(path: Path, name: str) -> Content:
    """One file's content, though another may take its place meanwhile; `name` is its own, wherever it was fetched to.

    Raises as `checkpoint.read` does.
    """
    while True:
        with opened(path) as (file, start):
            before = _mark(os.fstat(file.fileno()))
            digest = _sha256(start, file)
            if is_pth(start):
                (state, config), metadata = read_pth(path), {"imported_from": name}
            else:
                state, config, metadata = _read_safetensors(path)
            if _mark(path.stat()) == before:
                return Content(config, state, metadata, digest)


def write_file(path: Path, state: State, config: XYScanNetConfig, metadata: Mapping[str, str]) -> str:
    """Write contiguous CPU tensors whole or not at all; the sha256. The same content gives the same bytes."""
    header = {
        "format": "pt",
        "checkpoint_version": str(VERSION),
        "config": json.dumps(config.to_dict(), sort_keys=True),
        **metadata,
    }
    blob = memoryview(safetensors.torch.save(state, metadata=header))
    digest = hashlib.sha256()
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for piece in _with_sorted_metadata(blob):
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, bytes]]:
    """A checkpoint as an open file behind its first bytes, and these.

    Raises as `checkpoint.read` does, while it is open too.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(
            f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}, not a checkpoint"
        )
    try:
        with path.open("rb") as file:
            start = file.read(16)
            _recognise(path, start)
            yield file, start
    except FileNotFoundError:
        raise UnavailableError(f"{path}: no such checkpoint file") from None
    except OSError as error:
        raise UnavailableError(f"{path}: cannot be read: {error.strerror or error}") from None


def is_pth(start: bytes) -> bool:
    """A safetensors file begins with the length of its header, whose low byte may be a pickle's 0x80."""
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[4:9] != b"\0\0\0\0{")


def _with_sorted_metadata(blob: memoryview) -> list[bytes | memoryview]:
    """The same safetensors content with the header's text fields in a fixed order."""
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(bytes(blob[8 : 8 + size]))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, blob[8 + size :]]


def _mark(status: os.stat_result) -> tuple[int, ...]:
    """What a file does not keep where it is written to, or another takes its place."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _sha256(start: bytes, rest) -> str:
    digest = hashlib.sha256(start)
    while block := rest.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _recognise(path: Path, start: bytes) -> None:
    if not start:
        raise ConfigError(f"{path}: is empty (zero bytes); fetch or export the checkpoint again")
    if not is_pth(start) and start[8:9] != b"{":
        raise ConfigError(f"{path}: is not a checkpoint (neither safetensors nor .pth)")


def _read_safetensors(path: Path) -> tuple[State, XYScanNetConfig, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            header = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ConfigError(f"{path}: is damaged or truncated ({error}); fetch or export it again") from None
    if "config" not in header or "checkpoint_version" not in header:
        raise ConfigError(
            f"{path}: is a safetensors file of another program: its header holds no XYScanNet configuration"
        )
    version = header["checkpoint_version"]
    if version not in map(str, range(1, VERSION + 1)):
        raise ConfigError(
            f"{path}: has checkpoint version {version[:9]}, newer than {VERSION}; update xyscannet"
        )
    try:
        config = XYScanNetConfig.from_dict(json.loads(header["config"]))
    except (ConfigError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: the configuration in its header is not valid: {error}") from None
    return state, config, {key: value for key, value in header.items() if key not in RESERVED}
