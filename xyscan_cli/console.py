"""Everything that reaches the terminal, and the exit codes.

Text for people goes to stderr: in colour on a terminal, as plain lines elsewhere. Data goes to stdout.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shlex
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer

from xyscan_cli.streams import Stderr, drop, open_closed
from xyscannet import files
from xyscannet.errors import ConfigError, InputError, UnavailableError, XYScanError

EXIT_CODES: dict[type[XYScanError], int] = {InputError: 1, ConfigError: 2, UnavailableError: 3}
INTERRUPTED = 130  # Ctrl-C, 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM
PLAIN_INTERVALS = 5.0, 60.0  # seconds between progress lines where stderr is no terminal: at first, later

# the bases of typer's own usage errors: BadParameter <- UsageError <- ClickException
_CLICK_EXCEPTION = typer.BadParameter.__mro__[2]


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived: what Ctrl-C does, with another exit code."""


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


def _print(*parts: tuple[str, str]) -> None:
    from rich.text import Text

    text = Text()
    for part, style in parts:
        lines = part.split("\n")
        text.append("\n".join(shown(line) for line in lines), style=style)
    terminal().print(text, soft_wrap=True)


def say(text: str = "", style: str = "") -> None:
    """Print a line for people, unless `--quiet`."""
    if not _State.quiet:
        _print((text, style))


def field(name: str, value: str) -> None:
    """Print one line of an aligned list of facts, unless `--quiet`."""
    if not _State.quiet:
        _print((f"{name + ':' * bool(name):>9} ", "dim"), (value, ""))


def warn(text: str) -> None:
    """Print a warning."""
    _print(("warning: ", "yellow"), (text, ""))


def error(text: str) -> None:
    """Print an error."""
    _print(("error: ", "bold red"), (text, ""))


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


def lose_data(text: str) -> None:
    """Print an error about records that are lost; the exit code will not be 0."""
    _State.lost = True
    error(text)


def interrupted(interrupt: KeyboardInterrupt) -> int:
    """Say that the run was interrupted; return its exit code."""
    terminated = isinstance(interrupt, Terminated)
    error("terminated" if terminated else "interrupted")
    return TERMINATED if terminated else INTERRUPTED


def exit_code_of(run: Callable[[], Any]) -> int:
    """Run a command; print what went wrong as one message; return the exit code (the table is at the top)."""
    _State.debug = _State.quiet = _State.lost = False
    open_closed()
    try:
        with _signals(), _library_messages():
            code = run()
            return code if isinstance(code, int) and code else int(_State.lost)
    except XYScanError as failure:
        _explain(failure, str(failure))
        return next((code for kind, code in EXIT_CODES.items() if isinstance(failure, kind)), 1)
    except _CLICK_EXCEPTION as failure:
        return _usage(failure)
    except KeyboardInterrupt as interrupt:
        return interrupted(interrupt)
    except BrokenPipeError:
        drop(sys.stdout)
        return 1
    except OSError as failure:
        if failure.errno != errno.ENOSPC or failure.filename is not None:
            return _unexpected(failure)
        drop(sys.stdout)  # python would try again at exit
        _explain(failure, f"stdout cannot be written: {failure.strerror}")
        return 1
    except Exception as failure:
        return _unexpected(failure)


def _unexpected(failure: Exception) -> int:
    _explain(
        failure, f"unexpected {type(failure).__name__}: {failure}\nrun again with --debug for a traceback"
    )
    return 1


def _explain(failure: BaseException, message: str) -> None:
    if _State.debug:
        _print(("".join(traceback.format_exception(failure)).rstrip(), "dim"))
    error(message)


def _usage(failure: Any) -> int:
    """Typer's own complaint: one message, and where help is."""
    context = getattr(failure, "ctx", None)
    if type(failure).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(failure.message + "\n" if failure.message else "")
        return failure.exit_code
    message = failure.format_message()
    error(message if context is None else f"{message}\nsee: {context.command_path} --help")
    return failure.exit_code


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """The first signal to end raises in the main thread; later ones are ignored while the work is wound up.

    They are SIGINT, SIGTERM and SIGHUP of a terminal that is closed, but for those that whoever started us has ignored,
    as `nohup` does, and a shell for what it starts in the background.
    """
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    watched = [each for each in known if signal.getsignal(each) != signal.SIG_IGN]

    def stop(number: int, frame: Any) -> None:
        for each in watched:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    try:
        before = [(each, signal.signal(each, stop)) for each in watched]
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        yield
        return
    try:
        yield
    finally:
        for each, handler in before:
            signal.signal(each, handler)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            warn(record.getMessage())
        else:
            _print((f"{record.name}: {record.getMessage()}", "dim"))


@contextlib.contextmanager
def _library_messages() -> Iterator[None]:
    """Print the library's log and Python warnings as warnings of ours."""
    logger = logging.getLogger("xyscannet")
    level = logger.level
    handler = _Handler()
    logger.addHandler(handler)

    def show(message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
        warn(f"{message} ({category.__name__}, {filename}:{lineno})" if _State.debug else str(message))

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before
        logger.removeHandler(handler)
        logger.setLevel(level)


def duration(seconds: float) -> str:
    """Seconds for people: `0.8 s`, `42 s`, `3:07`, `1:02:03`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def number(value: float) -> str:
    """Two or three digits: `0.0035`, `0.41`, `5.2`, `14.2`, `630`; whole numbers as they are."""
    if value == 0 or isinstance(value, int):
        return str(int(value))
    return f"{value:.2g}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


class Progress:
    """Progress over work that is counted in some unit, with its rate and the time left.

    On a terminal a bar that redraws itself; elsewhere a line every few seconds; nothing with `--quiet`.

    Args:
        total: amount of work, in `unit`.
        unit: what the amount and the rate are counted in, e.g. `MP`.
        items: number of things that the work consists of; what `noun` names.
    """

    def __init__(self, total: float, unit: str, *, items: int = 0, noun: str = "images") -> None:
        self.total, self.unit, self.items, self.noun = total, unit, items, noun
        self.done, self.finished, self.detail = 0.0, 0, ""
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self.started = self._last = time.monotonic()
        if not _State.quiet and sys.stderr.isatty() and not terminal().is_dumb_terminal:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.fields[name]}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[status]}", style="dim"),
                console=terminal(),
                transient=True,
                refresh_per_second=4,
            )
            self._task = self._bar.add_task("", total=self.total, name="", status="")
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def status(self) -> str:
        """`3/12 images, 14.2/56.0 MP, 0.52 MP/s, 1:20 left`."""
        parts = [f"{self.finished}/{self.items} {self.noun}"] if self.items else []
        parts += [self.detail] if self.detail else []
        parts.append(f"{number(self.done)}/{number(self.total)} {self.unit}")
        if self.done > 0 and self.elapsed > 0.5:
            rate = self.done / self.elapsed
            parts += [
                f"{number(rate)} {self.unit}/s",
                f"{duration(max(self.total - self.done, 0) / rate)} left",
            ]
        return ", ".join(parts)

    def update(
        self, done: float, *, finished: int | None = None, name: str | None = None, detail: str = ""
    ) -> None:
        """Set the amount done so far, the number of items finished, what is being worked on, and where in it."""
        self.done, self.detail = done, detail
        self.finished = self.finished if finished is None else finished
        if self._bar is not None:
            changed = {} if name is None else {"name": _clip(shown(name))}
            self._bar.update(self._task, completed=done, total=self.total, status=self.status(), **changed)
        elif not _State.quiet:
            first, later = PLAIN_INTERVALS
            if time.monotonic() - self._last >= min(max(first, self.elapsed / 20), later):
                self._last = time.monotonic()
                say(self.status())


def _clip(text: str, width: int = 28) -> str:
    from rich.markup import escape

    return escape(text if len(text) <= width else "…" + text[1 - width :])
