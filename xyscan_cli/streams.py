"""The process's standard streams where they are closed, full, no longer read, or without a character."""

from __future__ import annotations

import io
import os
import sys
from typing import Any


class Stderr:
    """stderr. Where it takes no more, as when a pipe's reader or a terminal has gone, the work goes on without."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_stderr(), name)

    @property
    def rich_proxied_file(self) -> Stderr:
        """Where rich writes to while a live bar stands in stderr's place."""
        return self

    def write(self, text: str) -> int:
        try:
            return _stderr().write(text)
        except OSError:
            drop(_stderr())
            return len(text)

    def flush(self) -> None:
        try:
            _stderr().flush()
        except OSError:
            drop(_stderr())


def _stderr() -> Any:
    return getattr(sys.stderr, "rich_proxied_file", sys.stderr)


def drop(stream: Any) -> None:
    """Lead a stream nowhere, so that neither a later line nor python's own flush at exit fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def set_up() -> None:
    """Make ready for whatever may be written.

    Streams that the process was started without lead nowhere: no file that it opens takes their place. Characters that
    stdout's encoding does not have are escaped, as python does on stderr.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
