"""PyAV, the extra `video`: imported where it is used; what goes wrong in it is told with the file's name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from ..errors import InputError, UnavailableError
from ..files import reason, shown


def load() -> ModuleType:
    """The package `av`. Raises UnavailableError naming the extra where it is missing or too old."""
    try:
        import av
    except ImportError as error:
        raise UnavailableError(
            f"video needs the package av ({error}): pip install 'xyscannet[video]', or leave the clips out"
        ) from error
    if _version(av) < (17, 1):
        raise UnavailableError(
            f"video needs av 17.1 or later, not {av.__version__}: pip install --upgrade av"
        )
    return av


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """A clip open for reading; packets without a time stamp get one.

    Raises InputError for what goes wrong while it is open, as `telling`.
    """
    av = load()
    with telling(path, "read"):
        if os.path.getsize(path) == 0:
            raise InputError(f"{shown(path)}: the file is empty (0 bytes)")
        with av.open(
            os.fspath(path), container_options={"fflags": "+genpts"}, **keeping_bytes()
        ) as container:
            yield container


def keeping_bytes() -> dict[str, str]:
    """Arguments for `av.open` with which titles that are not UTF-8 are read, and written as the bytes they are."""
    if _version(load()) >= (19, 0):  # does nothing else
        return {}
    return {"metadata_errors": "surrogateescape"}


def _version(av: ModuleType) -> tuple[int, ...]:
    return tuple(int(part) for part in av.__version__.split(".")[:2])


def filtered(frame: Any, name: str, argument: str) -> Any:
    """A frame (`av.VideoFrame`) behind one of FFmpeg's filters; None where that lets it not through."""
    graph = load().filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    graph.link_nodes(source, graph.add(name, argument), graph.add("buffersink")).configure()
    graph.push(frame)
    try:
        return graph.pull()
    except BlockingIOError:
        return None


@contextlib.contextmanager
def telling(path: str | os.PathLike[str], done: str) -> Iterator[None]:
    """Turn errors of PyAV and of the system into InputError with the name of the file being `done` ("read")."""
    av = load()
    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        if done == "read" and isinstance(error, av.error.InvalidDataError):
            raise InputError(
                f"{shown(path)}: cannot be read as a video: it is damaged, truncated or something else"
            ) from error
        raise InputError(f"{shown(path)}: cannot be {done}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """What FFmpeg logged last about it, else what the system says."""
    log = getattr(error, "log", None)
    if log:
        return log[2].strip()
    return reason(error) if isinstance(error, OSError) else getattr(error, "strerror", None) or str(error)
