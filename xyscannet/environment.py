"""What processes that this project starts set for themselves before they import torch."""

from __future__ import annotations

import atexit
import gc
import math
import os
import sys
from collections.abc import Callable

from xyscannet.control_groups import processors

DEFAULTS = {
    # Large pages for torch's buffers, read at its first allocation: half the time of a large image on a CPU goes into
    # page faults without them.
    "THP_MEM_ALLOC_ENABLE": "1",
    # A thread that waits for the others of its team sleeps, read as OpenMP is loaded. Otherwise it spins, and where
    # anything else runs on the machine, it takes the processor from the one that it waits for.
    "OMP_WAIT_POLICY": "passive",
}


FIRST_USE = "xyscannet.first_use"
"""The logger of what happens once on a machine, as info: people who wait want to know it."""


def set_defaults() -> None:
    """Set what the user has not; for the beginning of a process, before torch is imported.

    A container with a quota of processors' time gets that many threads: with one for every processor of its machine
    they would use the quota up at once, and then all wait for the next period.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    threads = math.ceil(min(processors(), cores()))
    if threads < cores():
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def spare_the_collector(objects: int = 400_000) -> None:
    """Look for no garbage while a process imports what it needs; for its beginning.

    Importing torch and numba makes 320,000 objects, which stay: Python's collector looks through them again and again
    meanwhile (0.2 s of 1.8 s), and through all of them as the process ends (0.3 s), for nothing. It works as always
    from `collect_as_always` on, or once this many objects have been made.
    """
    usual = gc.get_threshold()

    def begin(phase: str, info: dict) -> None:
        if begin in gc.callbacks:
            gc.callbacks.remove(begin)
            gc.set_threshold(*usual)
            gc.freeze()

    def end() -> None:
        collect_as_always()
        # Triton's binding prints a list of what is not deleted.
        gc.unfreeze() if "triton" in sys.modules else gc.freeze()

    _beginnings.append(begin)
    gc.callbacks.append(begin)
    gc.set_threshold(objects, *usual[1:])
    atexit.register(end)


_beginnings: list[Callable[[str, dict], None]] = []


def collect_as_always() -> None:
    """Work begins: from here on garbage is looked for among what is made, where `spare_the_collector` was called."""
    while _beginnings:
        _beginnings.pop()("start", {})


def cores() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
