"""Which implementation of the operators runs: one table, with the reason each is or is not usable."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from xyscannet.errors import UnavailableError


@dataclass(frozen=True)
class Backend:
    """One implementation of the operators. `devices` are torch device types, empty for any."""

    name: str
    usable: bool
    reason: str
    devices: tuple[str, ...] = ()

    def serves(self, device_type: str) -> bool:
        return self.usable and (not self.devices or device_type in self.devices)


def _cpu() -> Backend:
    usable = importlib.util.find_spec("numba") is not None
    reason = "compiled by numba, multi-threaded" if usable else "the package numba is not installed"
    return Backend("cpu", usable, reason, ("cpu",))


def _triton() -> Backend:
    """Triton is imported only where a GPU is, or where it is asked to interpret its kernels on the CPU."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    devices = ("cuda", "cpu") if interpreted else ("cuda",)
    try:
        import torch

        if not interpreted and not torch.cuda.is_available():
            return Backend("triton", False, "there is no CUDA device", devices)
        version = importlib.import_module("triton").__version__
    except Exception as failure:  # a broken package or driver must not stop the other backends
        return Backend("triton", False, f"{type(failure).__name__}: {failure}", devices)
    how = "interpreted, for tests" if interpreted else "compiled"
    return Backend("triton", True, f"{how} by triton {version}", devices)


def _reference() -> Backend:
    return Backend("reference", True, "a loop in plain torch; any device, slow")


# The fastest first; a backend for another device is one more line here and a branch in operator.py.
_TABLE = tuple(probe() for probe in (_cpu, _triton, _reference))
_DEVICES = ("cpu", "cuda")
_chosen = "auto"
_active: dict[str, str] = {}


def backends() -> list[Backend]:
    """Every backend, best first, with whether it can run here and why (not)."""
    return list(_TABLE)


def active_backend(device_type: str = "cpu") -> str:
    """The name of the backend that tensors of this device type ("cpu", "cuda", ...) run on."""
    return _active.get(str(device_type).split(":")[0], "reference")


def _resolve(name: str) -> dict[str, str]:
    if name == "auto":
        return {device: next(b.name for b in _TABLE if b.serves(device)) for device in _DEVICES}
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
    """

    def __init__(self, name: str):
        global _chosen
        resolved = _resolve(name)
        self._before = _chosen
        _chosen = name
        _active.update(resolved)

    def __enter__(self) -> use_backend:
        return self

    def __exit__(self, *_: object) -> None:
        use_backend(self._before)


_active.update(_resolve("auto"))
