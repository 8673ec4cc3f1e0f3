"""Which implementation of the operators runs: one table, with the reason each is or is not usable."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

from xyscannet.errors import UnavailableError

_OLDEST_TRITON = (3, 3)  # the first that takes tuples in kernels


@dataclass(frozen=True)
class Backend:
    """One implementation of the operators. `devices` are torch device types, empty for any.

    One that is not `automatic` runs only where it is asked for by name.
    """

    name: str
    usable: bool
    reason: str
    devices: tuple[str, ...] = ()
    automatic: bool = True

    def serves(self, device_type: str) -> bool:
        return self.usable and (not self.devices or device_type in self.devices)


def _cpu() -> Backend:
    """What needs numba, which is imported at its first use only (`_try_numba`)."""
    usable = importlib.util.find_spec("numba") is not None
    reason = "compiled by numba, multi-threaded" if usable else "the package numba is not installed"
    return Backend("cpu", usable, reason, ("cpu",))


def _numba_fails() -> str | None:
    """Why nothing can be compiled by numba, which takes 0.3 s to find out."""
    try:
        if importlib.import_module("numba").config.DISABLE_JIT:
            return "NUMBA_DISABLE_JIT is set, so that numba compiles nothing"
        importlib.import_module("xyscannet.ops.compiling")
    except Exception as failure:  # a broken package must not stop the other backends
        return f"numba cannot be imported: {type(failure).__name__}: {failure}"
    return None


def _triton() -> Backend:
    """Triton is imported only where a GPU is, or where it is asked to interpret its kernels on the CPU."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    devices = ("cuda", "cpu") if interpreted else ("cuda",)
    try:
        if not interpreted and not torch.cuda.is_available():
            return Backend("triton", False, "there is no CUDA device", devices)
        version = importlib.import_module("triton").__version__
    except Exception as failure:  # a broken package or driver must not stop the other backends
        return Backend("triton", False, f"{type(failure).__name__}: {failure}", devices)
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < _OLDEST_TRITON:
        oldest = ".".join(map(str, _OLDEST_TRITON))
        reason = f"triton {version} is too old: the kernels need {oldest}, which torch 2.7 brings, or newer"
        return Backend("triton", False, reason, devices)
    lacking = None if interpreted else _lacking_for_triton()
    if lacking:
        return Backend("triton", False, lacking, devices)
    how = "interpreted, for tests" if interpreted else "compiled"
    return Backend("triton", True, f"{how} by triton {version}", devices)


def _lacking_for_triton() -> str | None:
    """What Triton needs for what launches kernels, which it compiles in C at their first use and keeps."""
    if sys.platform != "linux":
        return None
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")
    kept = Path(os.environ.get("TRITON_CACHE_DIR") or f"{home}/.triton/cache")
    if any(kept.glob("*/cuda_utils.*")):
        return None
    lacking = []
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        lacking.append("a C compiler (gcc)")
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")
    headers = Path(sysconfig.get_paths(scheme)["include"]) / "Python.h"
    if not (headers.is_file() or os.environ.get("CPATH") or os.environ.get("C_INCLUDE_PATH")):
        lacking.append("Python's headers (python3-dev)")
    return f"triton needs {' and '.join(lacking)} where it runs: install them" if lacking else None


def _mamba_ssm() -> Backend:
    """The package is imported at its first use only: that takes seconds, and may fail in any way."""
    devices = ("cuda",)
    try:
        found = importlib.util.find_spec("mamba_ssm") is not None
        if not found or not torch.cuda.is_available():
            missing = "the package mamba-ssm is not installed" if not found else "there is no CUDA device"
            return Backend("mamba_ssm", False, missing, devices, False)
        version = importlib.metadata.version("mamba_ssm")
    except Exception as failure:
        return Backend("mamba_ssm", False, f"{type(failure).__name__}: {failure}", devices, False)
    reason = f"the scan of mamba-ssm {version}, for comparison: only where it is asked for"
    return Backend("mamba_ssm", True, reason, devices, False)


def _reference() -> Backend:
    return Backend("reference", True, "a loop in plain torch; any device, slow")


# The fastest first. A backend's name is also that of its module beside each operator's definition.
_TABLE = tuple(probe() for probe in (_cpu, _triton, _mamba_ssm, _reference))
_DEVICES = ("cpu", "cuda")
_chosen = "auto"
_active: dict[str, str] = {}
_tried = False


def _try_numba() -> None:
    """Once, before something is compiled by it; where that fails, another backend runs."""
    global _TABLE, _tried
    if _tried:
        return
    fails = any(b.usable for b in _TABLE if b.name == "cpu") and _numba_fails()
    if fails:
        broken = Backend("cpu", False, fails, ("cpu",))
        _TABLE = tuple(broken if b.name == "cpu" else b for b in _TABLE)
        _active.update(_resolve(_chosen))
    _tried = True


def backends() -> list[Backend]:
    """Every backend, best first, with whether it can run here and why (not)."""
    _try_numba()
    return list(_TABLE)


def active_backend(device_type: str = "cpu") -> str:
    """The name of the backend that scans tensors of this device type ("cpu", "cuda", ...)."""
    device_type = str(device_type).split(":")[0]
    name = _active.get(device_type, "reference")
    if name == "cpu" and not torch.compiler.is_compiling() and not _tried:
        _try_numba()
        name = _active[device_type]
    return name


def own_backend(device_type: str = "cpu") -> str:
    """The name of the backend that every other operator runs on: mamba_ssm only scans."""
    name = active_backend(device_type)
    return _resolve("auto").get(str(device_type).split(":")[0], "reference") if name == "mamba_ssm" else name


def _resolve(name: str) -> dict[str, str]:
    if name == "auto":
        return {
            device: next(b.name for b in _TABLE if b.automatic and b.serves(device)) for device in _DEVICES
        }
    found = next((b for b in _TABLE if b.name == name), None)
    if found is None:
        known = ", ".join(["auto", *(b.name for b in _TABLE)])
        raise UnavailableError(f"there is no scan backend '{name}'; known are {known}")
    if not found.usable:
        raise UnavailableError(f"the scan backend '{name}' cannot run here: {found.reason}")
    automatic = _resolve("auto")
    return {device: name if found.serves(device) else automatic[device] for device in _DEVICES}


class use_backend:
    """Choose the backend by name, or "auto": at once and for good, or for the length of a `with` block.

    A backend that serves only some devices leaves the others as they are by default.
    Raises UnavailableError with the reason if the name is unknown or the backend cannot run here.

    With `shapes_alone` any backend is taken, for every device: for fake tensors, which ask operators for nothing else.
    """

    def __init__(self, name: str, *, shapes_alone: bool = False) -> None:
        global _chosen
        if name == "cpu":
            _try_numba()
        resolved = dict.fromkeys(_DEVICES, name) if shapes_alone else _resolve(name)
        self._before = _chosen
        _chosen = name
        _active.update(resolved)

    def __enter__(self) -> use_backend:
        return self

    def __exit__(self, *_: object) -> None:
        use_backend(self._before)


_active.update(_resolve("auto"))
