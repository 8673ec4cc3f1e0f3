from __future__ import annotations

import threading
from pathlib import Path

from tests.turns import Turns

SOON = 0.2  # seconds


def started(turns: Turns, alone: bool, go: threading.Event) -> tuple[threading.Thread, threading.Event]:
    """A test's turn that lasts until it may go, and whether it has begun."""
    begun = threading.Event()

    def run() -> None:
        with turns.turn(alone=alone):
            begun.set()
            assert go.wait(10)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, begun


def test_who_is_alone_waits_for_all_others_and_none_overtakes(tmp_path: Path) -> None:
    go = [threading.Event() for _ in range(4)]
    turns = [Turns(tmp_path / "turns") for _ in go]  # as of four processes
    first, begun = started(turns[0], False, go[0])
    assert begun.wait(10)
    second, begun = started(turns[1], False, go[1])
    assert begun.wait(10)
    alone, alone_begun = started(turns[2], True, go[2])
    assert not alone_begun.wait(SOON)
    later, later_begun = started(turns[3], False, go[3])
    go[0].set(), first.join()
    assert not alone_begun.wait(SOON) and not later_begun.wait(SOON)
    go[1].set(), second.join()
    assert alone_begun.wait(10) and not later_begun.wait(SOON)
    go[2].set(), alone.join()
    assert later_begun.wait(10)
    go[3].set(), later.join()
