"""How a command ends: its exit code, and one message about what went wrong."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import typer

from xyscan_cli import console
from xyscan_cli.stopping import ENDING
from xyscan_cli.streams import drop, set_up
from xyscannet.environment import FIRST_USE
from xyscannet.errors import ConfigError, InputError, UnavailableError, XYScanError

EXIT_CODES: dict[type[XYScanError], int] = {InputError: 1, ConfigError: 2, UnavailableError: 3}
INTERRUPTED = 130  # Ctrl-C, 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM

# the bases of typer's own usage errors: BadParameter <- UsageError <- ClickException
_CLICK_EXCEPTION = typer.BadParameter.__mro__[2]


_arrived = False  # an interrupt at a command, which ends


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived: what Ctrl-C does, with another exit code."""


def interrupted(interrupt: KeyboardInterrupt) -> int:
    """Say that the run was interrupted; return its exit code."""
    global _arrived
    _arrived = True
    terminated = isinstance(interrupt, Terminated)
    console.error("terminated" if terminated else "interrupted")
    return TERMINATED if terminated else INTERRUPTED


def exit_code_of(run: Callable[[], Any]) -> int:
    """Run a command; print what went wrong as one message; return the exit code (the table is at the top)."""
    global _arrived
    _arrived = False
    console.begin()
    set_up()
    try:
        with _signals(), _library_messages():
            code = run()
            sys.stdout.flush()  # what it does not take is told here, not at python's exit
            return code if isinstance(code, int) and code else int(console.data_is_lost())
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
        if isinstance(failure, PermissionError) and failure.filename is not None:
            _explain(failure, f"{failure.filename}: no permission: check its rights and those of its folders")
            return EXIT_CODES[ConfigError]
        if failure.errno != errno.ENOSPC or failure.filename is not None:
            return _unexpected(failure)
        drop(sys.stdout)  # python would try again at exit
        _explain(failure, f"stdout cannot be written: {failure.strerror}")
        return 1
    except Exception as failure:
        return _unexpected(failure)


def look_where_we_are() -> None:
    """Raise UnavailableError where the working directory is gone: MKL would end the process."""
    try:
        os.getcwd()
    except OSError as failure:
        raise UnavailableError(
            f"the working directory is not there any more ({failure.strerror}): change to another"
        ) from failure


def _unexpected(failure: Exception) -> int:
    _explain(
        failure, f"unexpected {type(failure).__name__}: {failure}\nrun again with --debug for a traceback"
    )
    return 1


def _explain(failure: BaseException, message: str) -> None:
    if console.is_debugging():
        console.write(("".join(traceback.format_exception(failure)).rstrip(), "dim"))
    console.error(message)


def _usage(failure: Any) -> int:
    """Typer's own complaint: one message, and where help is."""
    context = getattr(failure, "ctx", None)
    if type(failure).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(failure.message + "\n" if failure.message else "")
        return failure.exit_code
    message = failure.format_message()
    console.error(message if context is None else f"{message}\nsee: {context.command_path} --help")
    return failure.exit_code


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """The first signal to end raises in the main thread; later ones are ignored while the work is wound up.

    What is raised may be lost in foreign code, as in torch while it imports numpy: then the next one raises again.
    They are those of `ENDING` but for what whoever started us has ignored, as `nohup` does, and a shell for what it
    starts in the background.
    """
    watched = [each for each in ENDING if signal.getsignal(each) != signal.SIG_IGN]

    def stop(number: int, frame: Any) -> None:
        failure = sys.exc_info()[1]
        while failure is not None and not isinstance(failure, KeyboardInterrupt):
            failure = failure.__context__
        if failure is None and not _arrived:
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
            console.warn(record.getMessage())
        elif record.name == FIRST_USE:
            console.say(record.getMessage(), "dim")
        else:
            console.write((f"{record.name}: {record.getMessage()}", "dim"))


@contextlib.contextmanager
def _library_messages() -> Iterator[None]:
    """Print the library's log and Python warnings as warnings of ours."""
    logger = logging.getLogger("xyscannet")
    level = logger.level
    handler = _Handler()
    logger.addHandler(handler)
    logging.getLogger(FIRST_USE).setLevel(logging.INFO)

    def show(message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
        console.warn(
            f"{message} ({category.__name__}, {filename}:{lineno})"
            if console.is_debugging()
            else str(message)
        )

    before, warnings.showwarning = warnings.showwarning, show
    try:
        yield
    finally:
        warnings.showwarning = before
        logger.removeHandler(handler)
        logger.setLevel(level)
