"""Time and memory, measured so that they can be believed.

Competitors take turns in one process, after warm-up; GPU times are taken with events and synchronised; CPU memory is
the high-water mark of a process of its own. What runs out of memory is told, the others go on.
"""

from __future__ import annotations

import ctypes
import gc
import math
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from xyscannet.errors import UnavailableError
from xyscannet.inference.memory import available_memory, memory_is_out

_DATA = ("VmData", "RssAnon")


@dataclass(frozen=True)
class Timing:
    """Seconds of each repetition; none where there was too little memory."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds else None


@dataclass
class Once:
    """A call that is made when it is first called: `build()` returns it."""

    build: Callable[[], Callable[[], object]]
    _call: Callable[[], object] | None = None

    def __call__(self) -> object:
        if self._call is None:
            self._call = self.build()
        return self._call()


@contextmanager
def bounded_memory() -> Iterator[None]:
    """While entered, allocations beyond the memory that is free now fail, instead of the system ending this process.

    Addresses that the C library keeps for blocks to come count as used: they may become so. Linux only, elsewhere it
    does nothing.
    """
    give_back()
    try:
        import resource

        status = Path("/proc/self/status").read_text()
        promised, used = (1024 * int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) for name in _DATA)
    except (ImportError, OSError, TypeError):
        yield
        return
    soft, hard = before = resource.getrlimit(resource.RLIMIT_DATA)
    most = max(promised, used + available_memory("cpu"))
    limits = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([most, *limits]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def fits(call: Callable[[], object]) -> bool:
    """Call it; False where it runs out of memory, which is then free again."""
    try:
        call()
        return True
    except Exception as error:
        if not memory_is_out(error):
            raise
    give_back()
    return False


def give_back() -> None:
    """Return what nothing uses any more to the GPU and to the system: other processes and larger blocks need it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError, TypeError):  # a C library without it
        ctypes.CDLL(None).malloc_trim(0)


def time_in_turn(
    calls: Mapping[Hashable, Callable[[], object]],
    *,
    repeats: int,
    device: torch.device | str = "cpu",
    warmup: int = 1,
    budget: float = 60.0,
) -> dict[Hashable, Timing]:
    """Time every call `repeats` times, one after another, round by round.

    Each call is warmed up `warmup` times first. A call whose first measured run shows that all its repetitions
    would take longer than `budget` seconds is repeated less often, once at least. A call that runs out of memory
    is not called again and has no times.
    """
    on_gpu = torch.device(device).type == "cuda"
    measure = _measure_cuda if on_gpu else _measure_cpu
    with bounded_memory(), torch.cuda.device(device) if on_gpu else nullcontext():
        seconds: dict[Hashable, list[float]] = {
            name: [] for name, call in calls.items() if all(fits(call) for _ in range(warmup))
        }
        for turn in range(repeats):
            for name, taken in list(seconds.items()):
                if turn and turn >= budget / taken[0]:
                    continue
                if not fits(lambda call=calls[name], taken=taken: taken.append(measure(call))):
                    del seconds[name]
    return {name: Timing(tuple(seconds.get(name, ()))) for name in calls}


def time_short(
    calls: Mapping[Hashable, Callable[[], object]],
    *,
    repeats: int,
    device: torch.device | str = "cpu",
    shortest: float = 2e-3,
) -> dict[Hashable, Timing]:
    """`time_in_turn` for calls of microseconds: each is timed so many at once that it takes `shortest` seconds."""
    once = time_in_turn(calls, repeats=3, device=device, warmup=2, budget=1)
    counts = {name: math.ceil(shortest / timing.median) for name, timing in once.items() if timing.median}

    def many(name: Hashable) -> None:
        for _ in range(counts[name]):
            calls[name]()

    loops = {name: partial(many, name) for name in counts}
    timings = time_in_turn(loops, repeats=repeats, device=device, warmup=0, budget=20)
    found = {name: Timing(tuple(s / counts[name] for s in timings[name].seconds)) for name in counts}
    return {name: found.get(name, Timing(())) for name in calls}


def copy_bandwidth(device: torch.device | str = "cpu", *, repeats: int = 9) -> float:
    """Bytes a second that a copy of a large tensor reads and writes: 1 GiB on a GPU, 256 MiB on a CPU."""
    device = torch.device(device)
    source = torch.ones((1 << 28) if device.type == "cuda" else (1 << 26), device=device)
    target = torch.empty_like(source)
    timing = time_in_turn({"copy": lambda: target.copy_(source)}, repeats=repeats, device=device, warmup=2)[
        "copy"
    ]
    if timing.median is None:
        raise UnavailableError("too little memory to measure the copy bandwidth")
    return 2 * source.nbytes / timing.median


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
        with torch.cuda.device(device):
            return _grow_cuda(prepare(*args))
    give_back()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_grow_cpu, prepare, args).result()
        except BrokenProcessPool:
            raise UnavailableError("the process that measures memory was ended: too little memory?") from None


def _grow_cuda(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _grow_cpu(prepare: Callable[..., Callable[[], object]], args: tuple[object, ...]) -> int:
    call = prepare(*args)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the mark starts again from what is used now
    before = high_water()
    with bounded_memory():
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
