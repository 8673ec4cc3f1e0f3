"""Signals that end long work after its current step."""

from __future__ import annotations

import signal
import time
from typing import Any

ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals to end; SIGHUP, which Windows lacks, comes where a terminal is closed."""
FORWARDED = 2.0
"""Seconds after the first signal in which another may be the same one, forwarded by a launcher."""


class StopOnSignal:
    """While entered, the first of `ENDING` is only remembered, in `number`; a later SIGINT interrupts at once.

    A later one of the others does not, nor a SIGINT within `FORWARDED` seconds: launchers forward to every process what
    it has received already. One that whoever started us has ignored stays so.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self.number is not None

    def __enter__(self) -> None:
        self._before = {
            number: signal.signal(number, self._hear)
            for number in ENDING
            if signal.getsignal(number) != signal.SIG_IGN
        }

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: Any) -> None:
        if self.number is None:
            self.number, self._heard = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._heard > FORWARDED:
            raise KeyboardInterrupt
