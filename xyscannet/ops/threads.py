"""The threads that run compiled CPU kernels.

Kernels release the GIL and work on a range of tasks; the calling thread takes its share, so concurrent callers and
calls from inside other pools cannot wait for each other. A forked child starts with a new pool.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_SERIAL_WORK = 50_000
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def _forget_pool() -> None:
    global _pool, _pool_size, _lock
    _pool, _pool_size, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _executor(workers: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < workers:
            _pool, _pool_size = ThreadPoolExecutor(workers, thread_name_prefix="xyscan-ops"), workers
        return _pool


def run_tasks(kernel: Callable, arguments: tuple, tasks: int, work: int) -> None:
    """Run kernel(*arguments, first, last) over tasks 0 .. tasks - 1 on torch.get_num_threads() threads.

    `work` estimates the whole in elementary updates; small work stays on the calling thread.
    """
    threads = min(torch.get_num_threads(), tasks)
    if threads <= 1 or work < _SERIAL_WORK:
        kernel(*arguments, 0, tasks)
        return
    counter = itertools.count()

    def take() -> None:
        while (task := next(counter)) < tasks:
            kernel(*arguments, task, task + 1)

    executor = _executor(threads - 1)
    helpers = [executor.submit(take) for _ in range(threads - 1)]
    try:
        take()
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()
