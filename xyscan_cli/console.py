"""Everything that reaches the terminal.

Text for people goes to stderr: in colour on a terminal, as plain lines elsewhere. Data goes to stdout.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from xyscan_cli.streams import Stderr, drop
from xyscannet import files


class _State:
    debug = False
    quiet = False
    lost = False  # data that stdout did not take
    rich: Any = None
    given: tuple[str, ...] = ()


def set_given(arguments: Sequence[str]) -> None:
    """Remember what the command line was given, without the name of the program."""
    _State.given = tuple(arguments)


def given() -> str:
    """The command that runs, as one could paste it into a shell."""
    return shlex.join(["xyscan", *_State.given])


def set_debug(flag: bool) -> None:
    """Show tracebacks and the library's log (a flag that was seen stays set)."""
    if flag:
        _State.debug = True
        logging.getLogger("xyscannet").setLevel(logging.DEBUG)


def is_debugging() -> bool:
    return _State.debug


def is_quiet() -> bool:
    return _State.quiet


def set_quiet(flag: bool) -> None:
    """Print warnings and errors only."""
    _State.quiet = flag


def terminal() -> Any:
    """The rich console on stderr."""
    if _State.rich is None:
        from rich.console import Console

        _State.rich = Console(file=Stderr(), highlight=False, markup=False, emoji=False)
    return _State.rich


def shown(value: object) -> str:
    """Text for printing: control characters, newlines and undecodable bytes of file names are escaped."""
    return files.shown(value if isinstance(value, os.PathLike) else str(value))


def write(*parts: tuple[str, str]) -> None:
    """Print parts of a text, each in its style, escaped."""
    from rich.text import Text

    text = Text()
    for part, style in parts:
        lines = part.split("\n")
        text.append("\n".join(shown(line) for line in lines), style=style)
    terminal().print(text, soft_wrap=True)


def say(text: str = "", style: str = "") -> None:
    """Print a line for people, unless `--quiet`."""
    if not _State.quiet:
        write((text, style))


def field(name: str, value: str) -> None:
    """Print one line of an aligned list of facts, unless `--quiet`."""
    if not _State.quiet:
        write((f"{name + ':' * bool(name):>9} ", "dim"), (value, ""))


def warn(text: str) -> None:
    """Print a warning."""
    write(("warning: ", "yellow"), (text, ""))


def error(text: str) -> None:
    """Print an error."""
    write(("error: ", "bold red"), (text, ""))


def data(record: Any) -> None:
    """Print one JSON record on a line of stdout. If the reader has gone, the work goes on without."""
    try:
        sys.stdout.write(json.dumps(record) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        drop(sys.stdout)
    except OSError as failure:  # a full disk
        drop(sys.stdout)
        lose_data(f"stdout cannot be written, its records are lost: {failure.strerror}")


def finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with None for infinities and NaN, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


def lose_data(text: str) -> None:
    """Print an error about records that are lost; the exit code will not be 0."""
    _State.lost = True
    error(text)


def begin() -> None:
    """Forget what an earlier command of this process has set."""
    _State.debug = _State.quiet = _State.lost = False


def data_is_lost() -> bool:
    """Whether records were lost since `begin`."""
    return _State.lost
