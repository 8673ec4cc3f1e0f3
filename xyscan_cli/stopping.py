"""Signals that end long work after its current step."""

from __future__ import annotations

import signal
from typing import Any


class StopOnSignal:
    """While entered, the first SIGINT or SIGTERM is only remembered; the second interrupts at once.

    One that whoever started us has ignored stays so.
    """

    def __init__(self) -> None:
        self._heard = False

    def asked(self) -> bool:
        """Whether a signal has arrived."""
        return self._heard

    def __enter__(self) -> None:
        self._before = {
            number: signal.signal(number, self._hear)
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) != signal.SIG_IGN
        }

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: Any) -> None:
        if self._heard:
            raise KeyboardInterrupt
        self._heard = True
