"""What surrounds the kernels: registration, threads, processes, backends, addresses."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.ops.compare import DIRECTIONS, conv_inputs, run, scan_inputs
from tests.subprocesses import environment
from xyscannet.errors import UnavailableError
from xyscannet.ops import (
    active_backend,
    backends,
    compiling,
    selective_scan_fn,
    slice_conv1d,
    slice_scan,
    use_backend,
)

SCAN = {"delta_softplus": True, "directions": DIRECTIONS}


def _operator_arguments(save):
    x = scan_inputs(batch=1, height=2, width=3, channels=5, states=2)
    a, d, bias = (torch.stack([x[name].detach()] * 4).requires_grad_() for name in ("A", "D", "delta_bias"))
    tensors = (x["u"], x["delta"], a, x["B"], x["C"], d, x["z"], bias)
    return (*tensors, True, ",".join(DIRECTIONS), "cpu", save, True, False)


def test_scan_is_registered_completely():
    torch.library.opcheck(torch.ops.xyscannet.scan.default, _operator_arguments(True))
    without = [None if i in (5, 6, 7) else x for i, x in enumerate(_operator_arguments(True))]
    torch.library.opcheck(torch.ops.xyscannet.scan.default, (*without[:-3], True, False, True))


def test_conv_is_registered_completely():
    x = conv_inputs(batch=1, height=2, width=3, channels=5)
    for bias in (x["bias"], None):
        arguments = (x["x"], x["weight"], bias, True, ",".join(DIRECTIONS), "cpu", False)
        torch.library.opcheck(torch.ops.xyscannet.conv1d.default, arguments)


def test_gradcheck():
    x = scan_inputs(batch=1, height=2, width=3, channels=2, states=2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *a: slice_scan(*a, **SCAN), tuple(x.values()), fast_mode=True)
    x = conv_inputs(batch=1, height=2, width=5, channels=2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *a: slice_conv1d(*a, directions=DIRECTIONS), tuple(x.values()))
    x = [torch.randn(2, 3, 4).double().requires_grad_() for _ in range(2)]
    x += [-torch.rand(3, 2).double(), torch.randn(2, 2, 4).double(), torch.randn(2, 2, 4).double()]
    x = [v.requires_grad_() for v in x]
    assert torch.autograd.gradcheck(
        lambda *a: selective_scan_fn(*a, delta_softplus=True, return_last_state=True), x, fast_mode=True
    )


@pytest.mark.slow  # the compiler of torch takes its time
def test_whole_graph_compiles():
    def network(x, weight, scan):
        u = slice_conv1d(x, weight, directions=DIRECTIONS)
        return slice_scan(**{**scan, "u": u}, **SCAN) * 2

    scan = scan_inputs()
    x, weight = scan.pop("u"), torch.randn(12, 4, requires_grad=True)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    leaves = [x, weight, *scan.values()]
    expected, out = network(x, weight, scan), compiled(x, weight, scan)
    assert torch.equal(out, expected)
    for a, b in zip(torch.autograd.grad(out.sum(), leaves), torch.autograd.grad(expected.sum(), leaves)):
        assert torch.equal(a, b)


def test_autocast_leaves_the_parameters_in_float32():
    x = scan_inputs(dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        out = slice_scan(**x, **SCAN)
    assert out.dtype == torch.bfloat16 and x["A"].dtype == torch.float32
    out.sum().backward()
    assert x["A"].grad.dtype == torch.float32


@pytest.mark.parametrize("channels", [24, 130])
def test_the_number_of_threads_changes_no_bit(channels):
    scan = scan_inputs(batch=2, height=20, width=21, channels=channels)
    conv = conv_inputs(batch=2, height=20, width=21, channels=channels)
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        out, grads, _ = run(slice_scan, scan, **SCAN)
        more, conv_grads, _ = run(slice_conv1d, conv, directions=DIRECTIONS)
        results.append([*out, *more, *grads.values(), *conv_grads.values()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_concurrent_callers():
    inputs = [scan_inputs(batch=1, height=24, width=24, channels=24) for _ in range(4)]
    expected = [slice_scan(**x, **SCAN) for x in inputs]

    def work(i):
        out = slice_scan(**inputs[i], **SCAN)
        return out, torch.autograd.grad(out.sum(), inputs[i]["A"])[0]

    serial = [work(i)[1] for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for i, (out, grad) in enumerate(pool.map(work, [i % 4 for i in range(12)])):
            assert torch.equal(out, expected[i % 4]) and torch.equal(grad, serial[i % 4])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes():
    with torch.no_grad():
        # small enough for torch's own loops, whose threads do not survive a fork, to stay serial
        x = scan_inputs(batch=1, height=16, width=24, channels=12)
        expected = slice_scan(**x, **SCAN)  # starts the threads that the child does not inherit
        receiver, sender = multiprocessing.Pipe(False)
        pid = os.fork()
        if pid == 0:
            sender.send(torch.equal(slice_scan(**x, **SCAN), expected))
            os._exit(0)
        assert receiver.poll(60) and receiver.recv()
        assert os.waitpid(pid, 0)[1] == 0


def test_offsets_beyond_32_bits():
    """Branches further apart than 2**32 bytes, in a file of holes that is mapped and hardly touched."""
    import tempfile

    distance = 3 * 2**30  # float32 elements, 12 GiB
    with tempfile.NamedTemporaryFile() as file:
        try:
            far = torch.from_numpy(np.memmap(file.name, np.float32, "w+", shape=(distance + 4096,)))
        except OSError:
            pytest.skip("no sparse files here")
        x = torch.randn(1, 1, 6, 2, 12)
        strided = far.as_strided((1, 1, 6, 2, 12), (1, 1, 12, distance, 1))
        strided.copy_(x)
        b = torch.randn(1, 1, 6, 2, 16)
        rest = (x, -torch.rand(12, 16), b, b)
        assert torch.equal(
            slice_scan(strided, *rest, directions=("x", "-x")), slice_scan(x, *rest, directions=("x", "-x"))
        )
        wide = torch.randn(12, 4)
        assert torch.equal(
            slice_conv1d(strided, wide, directions=("x", "-x")), slice_conv1d(x, wide, directions=("x", "-x"))
        )
        del far, strided


_COMPILE_ONE = """
import torch
from xyscannet.ops import compiling
{prepare}
@compiling.compiled
def one(x):
    return x + 1
assert one(1) == 2
"""


@pytest.mark.parametrize(
    "prepare",
    [
        "compiling._KernelCache._impl_class = lambda *a: (_ for _ in ()).throw(RuntimeError('no locator'))",
        "compiling.FunctionCache.save_overload = lambda *a: (_ for _ in ()).throw(OSError('no space left'))",
    ],
)
def test_nowhere_to_keep_compiled_kernels(tmp_path, prepare):
    """Numba's own errors, no folder at all and a full disk, only cost the time of compiling again, and are told."""
    file = tmp_path / "one.py"
    heard = "import logging; logging.basicConfig(level='INFO')"
    file.write_text(heard + _COMPILE_ONE.format(prepare=prepare) + "compiling.compiled(one.py_func)(1.0)")
    found = subprocess.run(
        [sys.executable, str(file)], env=environment(), capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("unless NUMBA_CACHE_DIR names a folder") == 1


def test_kept_kernels_depend_on_what_they_call(tmp_path):
    """A kernel compiled from other sources of the vector type is not taken from the disk.

    Taking one from there does not import what numba compiles with.
    """
    file = tmp_path / "one.py"
    hits = "\nimport sys; print(sum(one.stats.cache_hits.values()), 'numba.np.arraymath' in sys.modules)"
    kept_here = environment(NUMBA_CACHE_DIR=str(tmp_path))
    counts = []
    for prepare in ("''", "''", "compiling._KernelCache._sources = 'other'"):
        file.write_text(_COMPILE_ONE.format(prepare=f"{prepare:<60}") + hits)
        os.utime(file, (1e9, 1e9))
        run_ = subprocess.run(
            [sys.executable, str(file)], env=kept_here, capture_output=True, text=True, timeout=120
        )
        counts.append(run_.stdout.strip())
    assert counts == ["0 True", "1 False", "0 True"], run_.stderr


def test_the_first_compilation_of_a_process_is_told(monkeypatch, caplog):
    cache = object.__new__(compiling._KernelCache)
    cache._cache_file = SimpleNamespace(claim=lambda key: None)
    compiling._tell.cache_clear()
    monkeypatch.setattr(compiling._KernelCache, "_index_key", lambda *a: "key")
    monkeypatch.setattr(compiling.rtsys, "initialize", lambda context: None)
    caplog.set_level("INFO", compiling.FIRST_USE)
    for on_disk, told in (("kernel", 0), (None, 1), (None, 1)):
        monkeypatch.setattr(compiling.FunctionCache, "_load_overload", lambda *a, found=on_disk: found)
        assert cache.load_overload("signature", SimpleNamespace(codegen=lambda: None)) == on_disk
        assert (
            len([record for record in caplog.records if "compiled for this processor" in record.message])
            == told
        )


def test_of_two_processes_one_compiles_a_kernel(tmp_path):
    file = tmp_path / "one.py"
    slow = "keep = compiling._KernelCache.save_overload\n"
    slow += "compiling._KernelCache.save_overload = lambda *a: (__import__('time').sleep(2), keep(*a))"
    file.write_text(_COMPILE_ONE.format(prepare=slow) + "\nprint(sum(one.stats.cache_hits.values()))")
    kept_here = environment(NUMBA_CACHE_DIR=str(tmp_path))
    both = [
        subprocess.Popen([sys.executable, str(file)], env=kept_here, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert sorted(process.communicate(timeout=120)[0].strip() for process in both) == ["0", "1"]


def kernel_files(folder) -> compiling._KernelFiles:
    return compiling._KernelFiles(str(folder), "convolve-80.py311", "stamp")


def key_of(signature: str = "(float32)", cells: str = "plain", sources: str = "sources"):
    return signature, ("x86_64", "znver3", "+avx2"), ("code", cells), sources


def test_each_kernel_has_a_file_whoever_else_keeps_one_at_that_moment(tmp_path, monkeypatch):
    """Also where another process keeps its kernel between any two steps of this one's."""
    files, other = kernel_files(tmp_path), kernel_files(tmp_path)
    opened = files._open_for_write

    def meanwhile(path):
        other.save(key_of(cells="gated"), "gated")
        return opened(path)

    monkeypatch.setattr(files, "_open_for_write", meanwhile)
    files.save(key_of(), "plain")
    assert files.load(key_of()) == "plain" and files.load(key_of(cells="gated")) == "gated"
    assert files.load(key_of("(float64)")) is None and len(list(tmp_path.iterdir())) == 2


def test_whoever_waits_too_long_for_a_kernel_compiles_it(tmp_path, monkeypatch):
    files, other = kernel_files(tmp_path), kernel_files(tmp_path)
    monkeypatch.setattr(compiling, "PATIENCE", 0.1)
    held = files.claim(key_of())
    assert files.load(key_of()) is None and other.claim(key_of()) is None
    files.save(key_of(), "plain")
    held.close()
    with other.claim(key_of()):
        assert other.load(key_of()) == "plain" and len(list(tmp_path.iterdir())) == 1
    assert kernel_files(tmp_path / "missing").claim(key_of()) is None


def test_a_kept_kernel_that_is_not_what_it_should_be_is_not_taken(tmp_path):
    """Another one's file under its name, one of other sources, one that is cut off, empty or a folder."""
    files = kernel_files(tmp_path)
    files.save(key_of(), "plain")
    files.save(key_of(cells="gated"), "gated")
    assert files.load(key_of(sources="changed")) is None
    plain, gated = (Path(files._path(key_of(cells=cells))) for cells in ("plain", "gated"))
    whole = plain.read_bytes()
    for wrong in (gated.read_bytes(), whole[:-1], whole[:20], b"", whole[:-1] + b"?"):
        plain.write_bytes(wrong)
        assert files.load(key_of()) is None
    files.save(key_of(sources="changed"), "new")  # in the place of the old
    assert files.load(key_of(sources="changed")) == "new" and len(list(tmp_path.iterdir())) == 2
    plain.unlink()
    plain.mkdir()
    assert files.load(key_of()) is None


def test_backends_are_listed_and_chosen():
    table = {b.name: b for b in backends()}
    assert table["reference"].usable and table["cpu"].usable and all(b.reason for b in table.values())
    assert active_backend("cpu") == "cpu" and active_backend("meta") == "reference"
    with use_backend("reference"):
        assert active_backend("cpu") == "reference"
        with use_backend("auto"):
            assert active_backend(torch.device("cpu").type) == "cpu"
        assert active_backend("cpu") == "reference"
    assert active_backend("cpu") == "cpu"
    use_backend("reference")
    assert active_backend("cpu") == "reference"
    use_backend("auto")
    with pytest.raises(
        UnavailableError, match="no scan backend 'tritn'; known are auto, cpu, triton, mamba_ssm, reference"
    ):
        use_backend("tritn")


@pytest.mark.parametrize("numba", [None, SimpleNamespace(config=SimpleNamespace(DISABLE_JIT=1))])
def test_where_numba_compiles_nothing_another_backend_runs(monkeypatch, numba):
    module = sys.modules[backends.__module__]
    monkeypatch.setattr(module, "_TABLE", module._TABLE)
    monkeypatch.setattr(module, "_active", dict(module._active))
    monkeypatch.setattr(module, "_tried", False)
    monkeypatch.setitem(sys.modules, "numba", numba)
    assert active_backend("cpu") == "reference"
    found = {b.name: b for b in backends()}["cpu"]
    assert not found.usable and ("NUMBA_DISABLE_JIT" if numba else "cannot be imported") in found.reason
    with pytest.raises(UnavailableError, match="cannot run here: .*numba"):
        use_backend("cpu")


def test_an_unusable_backend_says_why(monkeypatch):
    from xyscannet.ops import backends as module_function  # the package exports the function under this name

    module = sys.modules[module_function.__module__]
    broken = module.Backend("cpu", False, "the package numba is not installed", ("cpu",))
    monkeypatch.setattr(module, "_TABLE", (broken, *[b for b in module._TABLE if b.name == "reference"]))
    with pytest.raises(UnavailableError, match="cannot run here: the package numba is not installed"):
        use_backend("cpu")
    with use_backend("auto"):
        assert active_backend("cpu") == "reference"
    monkeypatch.undo()
    use_backend("auto")
