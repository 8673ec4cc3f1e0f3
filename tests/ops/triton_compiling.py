"""Triton kernels compiled for a GPU that need not be there."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from xyscannet.ops.backends import _OLDEST_TRITON

OLDEST = ".".join(map(str, _OLDEST_TRITON))  # release of triton that the kernels need


class _Absent:
    """A driver that only says for which GPU to compile."""

    def __init__(self, target: Any) -> None:
        self.get_current_target = lambda: target
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0


@contextmanager
def compiling_for(capability: int, folder: Path) -> Iterator[Callable[..., dict[str, dict[str, Any]]]]:
    """Launches compile for a GPU of this capability, into `folder`, and run nothing.

    Gives `watch(module, *names)`, which has the launches of a module's kernels kept: by kernel and hash, in what it
    returns, one and the same dictionary each time.
    """
    triton = pytest.importorskip("triton", minversion=OLDEST)
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver

    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the kernels are interpreted in this process")
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    if not (tools / "ptxas").exists() or not (tools / "cuobjdump").exists():
        pytest.skip("triton is installed without ptxas and cuobjdump")
    made: dict[str, dict[str, Any]] = {}
    kernels = []

    class Compiled:
        def __init__(self, name: str, kernel: Any) -> None:
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid: object) -> Callable[..., None]:
            def launch(*args: Any, **options: Any) -> None:
                binary = self.kernel.warmup(*args, grid=grid, **options)
                made.setdefault(self.name, {})[binary.hash] = binary

            return launch

    with pytest.MonkeyPatch.context() as patch:

        def watch(module: ModuleType, *names: str) -> dict[str, dict[str, Any]]:
            for name in names:
                kernels.append(getattr(module, name))
                kernels[-1].device_caches.clear()  # of what was compiled for other GPUs
                patch.setattr(module, name, Compiled(name, kernels[-1]))
            return made

        patch.setenv("TRITON_CACHE_DIR", str(folder))
        # its reset_active() looks for a GPU
        place = "_active" if "_active" in vars(driver) else "active"
        patch.setattr(driver, place, _Absent(GPUTarget("cuda", capability, 32)))
        try:
            yield watch
        finally:
            for kernel in kernels:
                kernel.device_caches.clear()


def compiled(script: str, capability: int, folder: Path) -> dict[str, list[dict]]:
    """What the launches of `script` compile: for each kernel its binaries' registers, stack, offsets and moves.

    The script names the kernels with `watch(module, *names)` and launches them on CPU tensors.
    """
    with compiling_for(capability, folder) as watch:
        exec(script, {"watch": watch, "torch": torch})
        return {
            name: [_described(binary, folder) for binary in found.values()]
            for name, found in watch(torch).items()
        }


def resources(binary: Any, folder: Path) -> dict[str, int]:
    """Registers and bytes of stack, shared and local memory of a compiled kernel, read from its binary."""
    import triton

    file = folder / f"{binary.hash}.cubin"
    file.write_bytes(binary.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(file)]
    used = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", used)}


def _described(binary: Any, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {**resources(binary, folder)}
    ttir, ptx = binary.asm["ttir"], binary.asm["ptx"]
    lines = [line for line in ttir.splitlines() if "tt.func" not in line and re.search(r"_step\b[,: ]", line)]
    found["narrow steps"] = [
        line for line in lines if re.search(r"%\w+_step\b", line) and "extsi" not in line
    ]
    tiles = re.findall(r"tt.addptr .* : tensor<\w+x\w+x!tt.ptr<\w+>>, tensor<\w+x\w+x(\w+)>", ttir)
    found["offsets"], found["moved"] = (
        sorted(set(tiles)),
        sorted(set(re.findall(r"(?:ld|st)\.global\.\S+", ptx))),
    )
    return found


def assert_sound(binaries: list[dict], registers: int = 255, count: int = 1) -> None:
    """As many binaries as said, none of which spills or computes a tile's offsets in 32 bits."""
    assert len(binaries) == count, binaries
    for binary in binaries:
        assert 16 < binary["REG"] <= registers and not binary["STACK"] and not binary["LOCAL"], binary
        assert binary["offsets"] == ["i64"] and not binary["narrow steps"], binary
