"""Threads beside the one that computes: one reads ahead of it, one writes behind it, with short queues between."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S", bound="_Stage")
_END = object()


def put(to: queue.Queue, item: object, given_up: Callable[[], bool]) -> bool:
    """Put an item as soon as there is room, and tell whether that was before `given_up` became true."""
    while not given_up():
        try:
            to.put(item, timeout=0.1)
            return True
        except queue.Full:
            pass
    return False


class Worker(threading.Thread):
    """A thread that is waited for to its end: an interruption in the meantime goes on after it.

    Python before 3.13 takes a thread for ended once a signal has interrupted its `join`.
    """

    def __init__(self, target: Callable[[], None], name: str) -> None:
        super().__init__(target=target, name=name)
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._ended.set()

    def wait(self) -> None:
        try:
            self._ended.wait()
        finally:
            self._ended.wait()
            self.join()


class _Stage:
    """A thread, the queue to or from it, and the seconds that the other side waited for it."""

    def __init__(self, name: str, depth: int) -> None:
        self.waited = 0.0
        self._queue: queue.Queue = queue.Queue(depth)
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = Worker(self._run, name)

    def _run(self) -> None:
        raise NotImplementedError

    def __enter__(self: S) -> S:
        try:
            self._thread.start()
        except BaseException:  # a signal's, which is not to leave a thread
            self._stop.set()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.wait()


class Ahead(_Stage, Generic[T]):
    """Iterate in a thread of its own, at most `depth` items ahead. An error in it is raised where the items are taken.

    Used as a context manager, at whose end the thread has ended and the iterator is closed.
    """

    def __init__(self, items: Iterable[T], name: str, depth: int = 1) -> None:
        super().__init__(name, depth)
        self._items = items

    def __iter__(self) -> Iterator[T]:
        while True:
            started = time.perf_counter()
            item = self._queue.get()
            self.waited += time.perf_counter() - started
            if item is _END:
                if self._error is not None:
                    raise self._error
                return
            yield item

    def _run(self) -> None:
        iterator = iter(self._items)
        try:
            for item in iterator:
                if not put(self._queue, item, self._stop.is_set):
                    return
        except BaseException as error:
            self._error = error
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
            put(self._queue, _END, self._stop.is_set)


class Behind(_Stage, Generic[T]):
    """Call a function with one item after another in a thread of its own, at most `depth` items behind.

    An error in it is raised by the next `put` or `finish`. Used as a context manager, at whose end the thread has
    ended; items that still wait are dropped where `finish` was not called.
    """

    def __init__(self, function: Callable[[T], None], name: str, depth: int = 1) -> None:
        super().__init__(name, depth)
        self._function = function

    def put(self, item: T) -> None:
        """Hand an item over; waits while `depth` items wait."""
        started = time.perf_counter()
        put(self._queue, item, lambda: self._error is not None)
        self.waited += time.perf_counter() - started
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all items are through."""
        self.put(_END)
        started = time.perf_counter()
        self._thread.wait()
        self.waited += time.perf_counter() - started
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is _END:
                return
            try:
                self._function(item)
            except BaseException as error:
                self._error = error
                return
