"""Timing takes turns and warms up; memory is the growth in a process of its own."""

from __future__ import annotations

import operator
import os
import re
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from xyscannet.analysis import timing
from xyscannet.analysis.timing import (
    Once,
    copy_bandwidth,
    high_water,
    peak_memory,
    time_in_turn,
    time_short,
)
from xyscannet.errors import UnavailableError

MIB = 2**20


def test_competitors_take_turns_after_warm_up():
    seen = []
    timings = time_in_turn(
        {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, repeats=3, warmup=2
    )
    assert seen == ["a", "a", "b", "b"] + ["a", "b"] * 3
    assert all(len(held.seconds) == 3 for held in timings.values())


def test_times_are_seconds():
    nap = time_in_turn({"nap": lambda: time.sleep(0.02)}, repeats=3)["nap"]
    assert 0.02 <= nap.median < 2
    assert nap.median == sorted(nap.seconds)[1]


def test_slow_calls_are_repeated_less(monkeypatch):
    monkeypatch.setattr(timing, "_measure_cpu", lambda call: call())
    timings = time_in_turn(
        {"slow": lambda: 5.0, "slowest": lambda: 50.0, "fast": lambda: 0.1}, repeats=6, warmup=0, budget=12
    )
    assert {name: len(held.seconds) for name, held in timings.items()} == {"slow": 3, "slowest": 1, "fast": 6}


def starved() -> object:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_out_of_memory_leaves_the_others_in_the_race():
    seen = []

    def later() -> None:
        seen.append("later")
        if len(seen) == 3:
            torch.empty(1 << 60, dtype=torch.uint8)  # more than any machine's address space

    timings = time_in_turn({"none": starved, "later": later, "fine": lambda: None}, repeats=4)
    assert [len(timings[name].seconds) for name in ("none", "later", "fine")] == [0, 0, 4]
    assert timings["none"].median is None
    assert len(seen) == 3


def test_other_errors_are_not_hidden():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        time_in_turn({"wrong": lambda: torch.ones(2, 3) @ torch.ones(2, 3)}, repeats=1)


def test_a_call_is_made_at_the_first_call():
    made = []
    call = Once(lambda: made.append("made") or (lambda: len(made)))
    assert made == []
    assert [call(), call()] == [1, 1]


def test_short_calls_are_timed_many_at_once():
    calls = []
    timings = time_short({"short": lambda: calls.append(1), "none": starved}, repeats=3)
    assert len(calls) > 300
    assert len(timings["short"].seconds) == 3 and 0 < timings["short"].median < 1e-4
    assert timings["none"].seconds == ()


def test_copy_bandwidth_counts_reads_and_writes(monkeypatch):
    monkeypatch.setattr(timing, "time_in_turn", lambda calls, **_: {"copy": timing.Timing((0.5,))})
    assert copy_bandwidth() == 2 * (256 * MIB) / 0.5


def test_peak_memory_is_the_growth_in_the_call():
    assert 60 * MIB < peak_memory(partial, operator.mul, b"x", 64 * MIB) < 100 * MIB
    assert high_water() > 10 * MIB


def test_a_dead_process_is_an_error():
    with pytest.raises(UnavailableError, match="memory"):
        peak_memory(partial, os._exit, 9)


def test_what_is_measured_on_a_gpu_runs_with_that_gpu_as_the_current_one(monkeypatch):
    current = ["cuda:0"]

    @contextmanager
    def device(chosen: torch.device | str):
        current.append(str(chosen))
        yield
        current.pop()

    seen = []
    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(timing, "_measure_cuda", lambda call: seen.append(current[-1]) or 1.0)
    time_in_turn({"any": lambda: seen.append(current[-1])}, repeats=1, device="cuda:1")
    for name in ("synchronize", "reset_peak_memory_stats", "memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: seen.append(current[-1]) or 0)
    peak_memory(lambda: seen.append(current[-1]) or (lambda: None), device="cuda:1")
    assert seen == ["cuda:1"] * (2 + 6) and current == ["cuda:0"]


@pytest.mark.gpu
def test_gpu_times_wait_for_the_work_and_memory_is_torchs():
    x = torch.rand(4096, 4096, device="cuda")
    timings = time_in_turn(
        {"one": lambda: x @ x, "many": lambda: [x @ x for _ in range(20)]}, repeats=3, device="cuda"
    )
    assert 10 < timings["many"].median / timings["one"].median < 40
    assert peak_memory(partial, torch.add, x, 1, device="cuda") >= 64 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="bounds memory on Linux only")
def test_a_cpu_without_memory_fails_here_and_not_in_the_kernel(monkeypatch):
    """Pages that are never touched are promised beyond what there is: the limit refuses them."""
    import resource

    monkeypatch.setattr(timing, "available_memory", lambda device: 4096 * MIB)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    many = {
        "much": lambda: [torch.empty(1024 * MIB, dtype=torch.uint8) for _ in range(6)],
        "little": lambda: torch.empty(1024 * MIB, dtype=torch.uint8),
    }
    timings = time_in_turn(many, repeats=2)
    assert timings["much"].median is None
    assert len(timings["little"].seconds) == 2
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    many["much"]()  # without the limit there is enough


@pytest.fixture
def holes():
    """Most of 312 MiB of small blocks is free again, but lies between blocks in use."""
    blocks = [torch.ones(16 * 1024, dtype=torch.uint8) for _ in range(20_000)]
    between = blocks[::40]
    del blocks
    return between


def memory(name: str) -> int:
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "measured", [lambda: time_in_turn({}, repeats=1), partial(peak_memory, partial, operator.add, 1, 2)]
)
def test_memory_that_earlier_cases_have_left_is_there_for_the_next(measured, holes):
    """A process that measures memory would otherwise find too little."""
    before = memory("RssAnon")
    measured()
    assert before - memory("RssAnon") > 250 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_holes_count_as_used_where_memory_is_bounded(monkeypatch, holes):
    """They may be filled again, beside everything new."""
    import resource

    monkeypatch.setattr(timing, "available_memory", lambda device: 4096 * MIB)
    with timing.bounded_memory():
        most = resource.getrlimit(resource.RLIMIT_DATA)[0]
        assert memory("VmData") - memory("RssAnon") > 250 * MIB
        assert abs(most - memory("RssAnon") - 4096 * MIB) < 100 * MIB
