"""Time and memory, measured so that they can be believed.

Competitors take turns in one process, after warm-up; GPU times are taken with events and synchronised; CPU memory is
the high-water mark of a process of its own.
"""

from __future__ import annotations

import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from xyscannet.errors import UnavailableError


@dataclass(frozen=True)
class Timing:
    """Seconds of each repetition."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def time_in_turn(
    calls: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    device: torch.device | str = "cpu",
    warmup: int = 1,
    budget: float = 60.0,
) -> dict[str, Timing]:
    """Time every call `repeats` times, one after another, round by round.

    Each call is warmed up `warmup` times first. A call whose first measured run shows that all its repetitions
    would take longer than `budget` seconds is repeated less often, once at least.
    """
    measure = _measure_cuda if torch.device(device).type == "cuda" else _measure_cpu
    for call in calls.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats):
        for name, call in calls.items():
            if turn and turn >= budget / seconds[name][0]:
                continue
            seconds[name].append(measure(call))
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def _measure_cpu(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _measure_cuda(call: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def peak_memory(
    prepare: Callable[..., Callable[[], object]], *args: object, device: torch.device | str = "cpu"
) -> int:
    """Bytes by which memory grows at its highest during the call that `prepare(*args)` returns.

    On the CPU this runs in a new process, so `prepare` must be a function of a module and `args` picklable; what
    `prepare` itself allocates (weights, compiled kernels) is not counted. On a GPU it counts torch's allocations.
    Raises UnavailableError where the new process dies, for lack of memory above all.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return _grow_cuda(prepare(*args), device)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_grow_cpu, prepare, args).result()
        except BrokenProcessPool:
            raise UnavailableError("the process that measures memory was ended: too little memory?") from None


def _grow_cuda(call: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _grow_cpu(prepare: Callable[..., Callable[[], object]], args: tuple[object, ...]) -> int:
    call = prepare(*args)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the mark starts again from what is used now
    before = high_water()
    call()
    return max(0, high_water() - before)


def high_water() -> int:
    """The most memory this process has held, in bytes (since the last reset)."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
