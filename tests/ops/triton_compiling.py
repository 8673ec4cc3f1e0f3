"""Triton kernels compiled for a GPU that need not be there, or interpreted, in processes of their own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.subprocesses import environment

ROOT = Path(__file__).parents[2]

_COMPILE = """
import json, re, subprocess, sys
from pathlib import Path
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

class Absent:  # a driver that only says for which GPU to compile
    get_current_target = staticmethod(lambda: GPUTarget("cuda", int(sys.argv[1]), 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)

driver.set_active(Absent())
made = {}

class Compiled:
    def __init__(self, name, kernel):
        self.name, self.kernel = name, kernel

    def __getitem__(self, grid):
        def launch(*args, **options):
            binary = self.kernel.warmup(*args, grid=grid, **options)
            made.setdefault(self.name, {})[binary.hash] = binary
        return launch

def watch(module, *names):
    for name in names:
        setattr(module, name, Compiled(name, getattr(module, name)))

def described(binary):
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    file = Path(sys.argv[2]) / f"{binary.hash}.cubin"
    file.write_bytes(binary.asm["cubin"])
    command = [str(tools / "cuobjdump"), "--dump-resource-usage", str(file)]
    used = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\\d+)", used)}
    ttir, ptx = binary.asm["ttir"], binary.asm["ptx"]
    lines = [line for line in ttir.splitlines() if "tt.func" not in line and re.search(r"_step\\b[,: ]", line)]
    found["narrow steps"] = [line for line in lines if re.search(r"%\\w+_step\\b", line) and "extsi" not in line]
    tiles = re.findall(r"tt.addptr .* : tensor<\\w+x\\w+x!tt.ptr<\\w+>>, tensor<\\w+x\\w+x(\\w+)>", ttir)
    found["offsets"], found["moved"] = sorted(set(tiles)), sorted(set(re.findall(r"(?:ld|st)\\.global\\.\\S+", ptx)))
    return found
"""
_REPORT = (
    "\nprint(json.dumps({name: [described(b) for b in found.values()] for name, found in made.items()}))"
)


def compiled(script: str, capability: int, folder: Path) -> dict[str, list[dict]]:
    """What the launches of `script` compile: for each kernel its binaries' registers, stack, offsets and moves.

    The script names the kernels with `watch(module, *names)` and launches them on CPU tensors.
    """
    triton = pytest.importorskip("triton")
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    if not (tools / "ptxas").exists() or not (tools / "cuobjdump").exists():
        pytest.skip("triton is installed without ptxas and cuobjdump")
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE + script + _REPORT, str(capability), str(folder)],
        env=environment(OMP_NUM_THREADS="1", TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(folder)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def assert_sound(binaries: list[dict], registers: int = 255, count: int = 1) -> None:
    """As many binaries as said, none of which spills or computes a tile's offsets in 32 bits."""
    assert len(binaries) == count, binaries
    for binary in binaries:
        assert 16 < binary["REG"] <= registers and not binary["STACK"] and not binary["LOCAL"], binary
        assert binary["offsets"] == ["i64"] and not binary["narrow steps"], binary


class Interpreting:
    """Files of cases that run one after another in processes of their own, beside the tests that need no Triton."""

    def __init__(self, cases: Iterable[str]) -> None:
        self._queue = ThreadPoolExecutor(1, thread_name_prefix="interpreting")
        self._process: subprocess.Popen[str] | None = None
        self._results = {case: self._queue.submit(self._run, case) for case in cases}

    def _run(self, cases: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(ROOT / cases)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(OMP_NUM_THREADS="1", TRITON_INTERPRET="1"),
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        output, error = self._process.communicate()
        return self._process.returncode, output, error

    def result(self, cases: str) -> tuple[int, str, str]:
        """Exit code, output and errors of a file's process, once it has ended; begins it if it has not been begun."""
        if cases not in self._results:
            self._results[cases] = self._queue.submit(self._run, cases)
        return self._results[cases].result(timeout=900)

    def stop(self) -> None:
        """End what still runs, as when the tests were interrupted."""
        self._queue.shutdown(wait=False, cancel_futures=True)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()


def assert_all_passed(code: int, output: str, error: str) -> None:
    """What a file of cases came to: none failed, and none was skipped."""
    assert code == 0, output[-6000:] + error[-2000:]
    assert re.search(r"\d passed", output) and "skipped" not in output
