"""Timing takes turns and warms up; memory is the growth in a process of its own."""

from __future__ import annotations

import operator
import os
import time
from functools import partial

import pytest

from xyscannet.analysis import timing
from xyscannet.analysis.timing import high_water, peak_memory, time_in_turn
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


def test_peak_memory_is_the_growth_in_the_call():
    assert 60 * MIB < peak_memory(partial, operator.mul, b"x", 64 * MIB) < 100 * MIB
    assert high_water() > 10 * MIB


def test_a_dead_process_is_an_error():
    with pytest.raises(UnavailableError, match="memory"):
        peak_memory(partial, os._exit, 9)


@pytest.mark.gpu
def test_gpu_times_wait_for_the_work_and_memory_is_torchs():
    import torch

    x = torch.rand(4096, 4096, device="cuda")
    timings = time_in_turn(
        {"one": lambda: x @ x, "many": lambda: [x @ x for _ in range(20)]}, repeats=3, device="cuda"
    )
    assert 10 < timings["many"].median / timings["one"].median < 40
    assert peak_memory(partial, torch.add, x, 1, device="cuda") >= 64 * MIB
