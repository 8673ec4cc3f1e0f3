"""The threads of the compiled kernels: torch's own where they can be had, a pool elsewhere."""

from __future__ import annotations

import sys
import threading
import time

import pytest
import torch

from xyscannet.ops import threads

LARGE = 10**9


@pytest.fixture(params=["as found", "pool"])
def run_tasks(request, monkeypatch):
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    return threads.run_tasks


@pytest.mark.parametrize(("tasks", "count"), [(1, 2), (2, 2), (50, 2), (50, 3), (3, 8)])
def test_every_task_runs_once(run_tasks, tasks, count):
    torch.set_num_threads(count)
    seen = []

    def kernel(argument, first, last):
        assert argument == "given"
        seen.extend(range(first, last))

    run_tasks(kernel, ("given",), tasks, LARGE)
    assert sorted(seen) == list(range(tasks))


def test_tasks_run_beside_each_other(run_tasks):
    together = threading.Barrier(2, timeout=30)  # nobody passes alone
    run_tasks(lambda first, last: together.wait(), (), 2, LARGE)


def test_small_work_stays_with_the_caller(run_tasks):
    seen = []
    run_tasks(lambda first, last: seen.append((threading.get_ident(), first, last)), (), 7, 10)
    assert seen == [(threading.get_ident(), 0, 7)]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()])
def test_what_a_task_raises_reaches_the_caller(run_tasks, failure):
    def kernel(first, last):
        if first == 3:
            raise failure
        time.sleep(0.001)

    with pytest.raises(type(failure)):
        run_tasks(kernel, (), 8, LARGE)
    test_every_task_runs_once(run_tasks, 8, 2)


@pytest.mark.skipif(
    sys.platform != "linux" or not torch.backends.openmp.is_available(),
    reason="only there torch's threads can be had",
)
def test_kernels_run_on_the_threads_of_torch():
    """So that they do not wait for processors on which torch's threads spin."""
    assert threads._openmp() is not None
    together, seen = threading.Barrier(2, timeout=30), []

    def kernel(first, last):
        seen.append(threading.current_thread())
        together.wait()

    threads.run_tasks(kernel, (), 2, LARGE)
    assert len(set(seen)) == 2 and threading.current_thread() in seen
    assert not any(thread.name.startswith("xyscan-ops") for thread in seen)
