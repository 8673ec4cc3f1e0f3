"""Limits for tests: what hostile files may take, and a disk that is full."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator
from pathlib import Path

from xyscannet.analysis.timing import high_water


@contextlib.contextmanager
def bounded(*, seconds: float = 5, mebibytes: float = 200) -> Iterator[None]:
    """Its block must take no more processor time than that, nor let the process's memory grow higher."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the mark starts again from what is used now
    memory, started = high_water(), time.process_time()
    yield
    taken, grown = time.process_time() - started, (high_water() - memory) / 2**20
    assert taken < seconds, f"{taken:.1f} s"
    assert grown < mebibytes, f"{grown:.0f} MiB"


class FullDisk:
    """While entered, no file can grow beyond some bytes, as on a disk that is full."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def __enter__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self._limit, self._before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)
