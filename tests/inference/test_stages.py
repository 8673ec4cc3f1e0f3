"""Threads before and behind the one that computes: bounded, in order, and their errors arrive."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from xyscannet.inference.stages import Ahead, Behind


def until(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


def test_items_are_made_ahead_but_not_too_far() -> None:
    made: list[int] = []

    def items():
        for i in range(10):
            made.append(i)
            yield i

    with Ahead(items(), "test ahead", depth=2) as ahead:
        assert until(lambda: len(made) == 3)  # two wait, the third is held
        time.sleep(0.05)
        assert len(made) == 3
        assert list(ahead) == list(range(10))
    assert 0 <= ahead.waited < 5


def test_an_error_ahead_arrives_after_what_came_before() -> None:
    def items():
        yield 1
        raise ValueError("broken")

    found = []
    with Ahead(items(), "test ahead") as ahead, pytest.raises(ValueError, match="broken"):
        for item in ahead:
            found.append(item)
    assert found == [1]


def test_leaving_early_ends_the_thread_and_closes_what_it_reads() -> None:
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    with Ahead(items(), "test ahead") as ahead:
        assert next(iter(ahead)) == 0
    assert closed.is_set() and "test ahead" not in [thread.name for thread in threading.enumerate()]


def test_items_are_taken_in_order_behind() -> None:
    found: list[int] = []
    with Behind(found.append, "test behind", depth=2) as behind:
        for i in range(20):
            behind.put(i)
        behind.finish()
        assert found == list(range(20))


def test_work_behind_goes_on_meanwhile_but_not_without_bound() -> None:
    gate, began = threading.Event(), threading.Event()

    def slow(item: int) -> None:
        began.set()
        gate.wait(5)

    with Behind(slow, "test behind", depth=1) as behind:
        behind.put(0)
        assert began.wait(5)
        behind.put(1)  # waits in the queue
        threading.Timer(0.2, gate.set).start()
        behind.put(2)  # there is no room until the first is done
        assert gate.is_set() and behind.waited > 0.1
        behind.finish()


def test_an_error_behind_arrives_at_the_next_item_or_the_end() -> None:
    def broken(item: int) -> None:
        raise ValueError(f"no room for {item}")

    with Behind(broken, "test behind") as behind, pytest.raises(ValueError, match="no room for 0"):
        behind.put(0)
        behind.finish()
    assert "test behind" not in [thread.name for thread in threading.enumerate()]


def test_an_interruption_leaves_no_item_half_done() -> None:
    """A signal that interrupts a wait for a thread."""
    through: list[int] = []

    def slowly(item: int) -> None:
        time.sleep(0.1)  # until it is waited for
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.1)
        through.append(item)

    with pytest.raises(KeyboardInterrupt), Behind(slowly, "test behind") as behind:
        behind.put(1)
        behind.finish()
    assert through == [1]
