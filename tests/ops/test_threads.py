"""The threads of the compiled kernels: torch's own where they can be had, a pool elsewhere."""

from __future__ import annotations

import ctypes
import re
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from xyscannet.models import XYScanNet, XYScanNetConfig
from xyscannet.ops import threads
from xyscannet.ops.compiling import compiled
from xyscannet.ops.regions import run_region

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


openmp = pytest.mark.skipif(threads._openmp() is None, reason="torch's threads are not OpenMP's here")


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


@openmp
def test_openmp_beside_the_package_of_torch_is_found(tmp_path, monkeypatch):
    """Wheels for ARM have it in `torch.libs`, under a name of its own."""
    loaded = next(
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if re.search(r"/lib(gomp|iomp5|omp)\b", line)
    )
    own = tmp_path / "torch.libs" / "libgomp-a49a47f9.so.1.0.0"
    own.parent.mkdir()
    shutil.copy(loaded, own)
    ctypes.CDLL(str(own))
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    monkeypatch.setattr(threads, "_OPENMP", ())
    assert threads._openmp.__wrapped__() is not None


@compiled
def _note(place, weight, seen, sums, first, last):
    """seen[task] counts its runs; sums[task] shows what reached the kernel."""
    (step, (offset, more)), scale = place, weight
    for task in range(first, last):
        seen[task] += 1
        sums[task, 1] = step + offset * more + scale * task


@compiled
def _fails(seen, first, last):
    seen[first] += 1
    if first == 3:
        raise ValueError("no")


def _places(tasks):
    return (7, (-(2**40), 3)), 0.5, np.zeros(tasks, np.int64), np.zeros((tasks, 2), np.float32)


@openmp
@pytest.mark.parametrize(("tasks", "count"), [(1, 2), (50, 2), (50, 3), (3, 8)])
def test_compiled_kernels_get_what_they_were_given_on_every_thread(tasks, count):
    place, weight, seen, sums = _places(tasks)
    assert run_region(threads._openmp(), _note, (place, weight, seen, sums), tasks, count)
    assert (seen == 1).all() and not sums[:, 0].any()
    np.testing.assert_array_equal(sums[:, 1], np.float32(7 - 3 * 2**40 + 0.5 * np.arange(tasks)))


@openmp
def test_arguments_of_other_types_have_code_of_their_own():
    for real in (np.float32, np.float64):
        place, weight, seen, sums = _places(4)
        assert run_region(threads._openmp(), _note, (place, weight, seen, sums.astype(real)), 4, 2)
        assert (seen == 1).all()


@openmp
def test_what_cannot_be_taken_apart_is_left_to_python():
    place, weight, seen, sums = _places(8)
    strided = np.zeros(16, np.int64)[::2]
    parallel = threads._openmp()
    assert not run_region(parallel, _note, (place, weight, strided, sums), 8, 2)
    assert not run_region(parallel, _note, (place, np.float32(1), seen, sums), 8, 2)
    assert not run_region(parallel, lambda first, last: None, (), 8, 2)
    assert not strided.any() and not seen.any()
    threads.run_tasks(_note, (place, weight, strided, sums), 8, LARGE)
    assert (strided == 1).all()


@openmp
@pytest.mark.parametrize("gate", ["element", "mean"])
def test_no_kernel_of_a_network_is_left_to_python(gate, monkeypatch):
    def leave(*_):
        raise AssertionError("left to Python")

    monkeypatch.setattr(threads, "_on_openmp", leave)
    monkeypatch.setattr(threads, "_SERIAL_WORK", 0)
    blocks = {"encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1)}
    model = XYScanNet(XYScanNetConfig(width=8, gate=gate, **blocks))
    model(torch.rand(1, 3, 32, 40)).sum().backward()
    with torch.inference_mode():
        model.fuse()(torch.rand(1, 3, 32, 40))


@openmp
def test_what_a_compiled_kernel_raises_reaches_the_caller():
    with pytest.raises(ValueError, match="no"):
        threads.run_tasks(_fails, (np.zeros(8, np.int64),), 8, LARGE)
    place, weight, seen, sums = _places(8)
    threads.run_tasks(_note, (place, weight, seen, sums), 8, LARGE)
    assert (seen == 1).all()
