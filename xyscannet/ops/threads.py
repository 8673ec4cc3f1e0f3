"""The threads that run compiled CPU kernels.

Kernels release the GIL and take tasks one by one; the calling thread takes its share, so concurrent callers and calls
from inside other pools cannot wait for each other. Where torch's threads are OpenMP's, kernels run on the same ones:
they spin for a while after each convolution, and other threads would have to share the processors with them. A forked
child, which OpenMP's threads do not reach, starts a pool of its own.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

from xyscannet.ops.regions import run_region

_SERIAL_WORK = 50_000
_REGION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_OPENMP = ("libgomp.so.1", "libiomp5.so", "libomp.so")
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_forked = False


def _forget_threads() -> None:
    global _pool, _pool_size, _lock, _forked
    _pool, _pool_size, _lock, _forked = None, 0, threading.Lock(), True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


@cache
def _openmp() -> Callable | None:
    """`GOMP_parallel` of the OpenMP library that torch runs on, None where there is none (macOS, Windows)."""
    if not torch.backends.openmp.is_available() or not hasattr(os, "RTLD_NOLOAD"):
        return None
    package = Path(torch.__file__).parent
    folders = (package / "lib", package.with_name("torch.libs"))  # the second in wheels for ARM
    own = [
        path for kind in ("gomp", "iomp", "omp") for each in folders for path in each.glob(f"lib{kind}*.so*")
    ]
    for name in (*map(str, own), *_OPENMP):
        try:
            parallel = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW).GOMP_parallel
        except (OSError, AttributeError):  # not what torch has loaded, or another kind of OpenMP
            continue
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
        return parallel
    return None


def _executor(workers: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _lock:
        if _pool is None or _pool_size < workers:
            _pool, _pool_size = ThreadPoolExecutor(workers, thread_name_prefix="xyscan-ops"), workers
        return _pool


def _on_openmp(parallel: Callable, take: Callable[[], None], threads: int) -> None:
    failures: list[BaseException] = []

    def region(_: object) -> None:
        try:
            take()
        except BaseException as failure:  # an interrupt too; it cannot leave through foreign code
            failures.append(failure)

    parallel(ctypes.cast(_REGION(region), ctypes.c_void_p), None, threads, 0)
    if failures:
        raise failures[0]


def _on_pool(take: Callable[[], None], threads: int) -> None:
    executor = _executor(threads - 1)
    helpers = [executor.submit(take) for _ in range(threads - 1)]
    try:
        take()
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def run_tasks(kernel: Callable, arguments: tuple, tasks: int, work: int) -> None:
    """Run kernel(*arguments, first, last) over tasks 0 .. tasks - 1 on torch.get_num_threads() threads.

    `work` estimates the whole in elementary updates; small work stays on the calling thread.
    """
    threads = min(torch.get_num_threads(), tasks)
    if threads <= 1 or work < _SERIAL_WORK:
        kernel(*arguments, 0, tasks)
        return
    parallel = None if _forked else _openmp()
    if parallel and run_region(parallel, kernel, arguments, tasks, threads):
        return
    counter = itertools.count()

    def take() -> None:
        while (task := next(counter)) < tasks:
            kernel(*arguments, task, task + 1)

    if parallel:
        _on_openmp(parallel, take, threads)
    else:
        _on_pool(take, threads)
