"""Progress for people, and the durations and numbers in it."""

from __future__ import annotations

import sys
import time
from typing import Any

from xyscan_cli import console

FIRST_SHARE = 0.01  # of the work, from which on a rate means something: kernels may be compiled at its start
PLAIN_INTERVALS = 5.0, 60.0  # seconds between progress lines where stderr is no terminal: at first, later


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
        before: how much of it an earlier run has done.
    """

    def __init__(
        self, total: float, unit: str, *, items: int = 0, noun: str = "images", before: float = 0
    ) -> None:
        self.total, self.unit, self.items, self.noun, self.before = total, unit, items, noun, before
        self.done, self.finished, self.detail = 0.0, 0, ""
        self._bar: Any = None

    def __enter__(self) -> Progress:
        self.started = self._last = time.monotonic()
        if not console.is_quiet() and sys.stderr.isatty() and not console.terminal().is_dumb_terminal:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.fields[name]}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[status]}", style="dim"),
                console=console.terminal(),
                transient=True,
                refresh_per_second=4,
                redirect_stdout=sys.stdout.isatty(),  # else data would go to the terminal
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
        now = self.done - self.before
        if now > FIRST_SHARE * (self.total - self.before) and self.elapsed > 0.5:
            rate = now / self.elapsed
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
            changed = {} if name is None else {"name": _clip(console.shown(name))}
            self._bar.update(self._task, completed=done, total=self.total, status=self.status(), **changed)
        elif not console.is_quiet():
            first, later = PLAIN_INTERVALS
            if time.monotonic() - self._last >= min(max(first, self.elapsed / 20), later):
                self._last = time.monotonic()
                console.say(self.status())


def _clip(text: str, width: int = 28) -> str:
    from rich.markup import escape

    return escape(text if len(text) <= width else "…" + text[1 - width :])
