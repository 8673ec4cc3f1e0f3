from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch.utils import _device

_device._device_constructors()  # `with torch.device(...)` remembers torch.empty from its first use: not a patched one
_EMPTY = ("empty", "empty_like", "empty_strided")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """Fresh tensors hold NaN, so that an element nobody wrote is noticed."""

    def poison(make):
        def poisoned(*args, **kwargs):
            x = make(*args, **kwargs)
            return x.fill_(float("nan")) if x.is_floating_point() and x.device.type == "cpu" else x

        return poisoned

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))
        for name in _EMPTY:
            patch.setattr(torch, name, poison(getattr(torch, name)))
        yield


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def kernels_of(backend: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of a CPU backend's compiled kernels, as they run from now on."""
    ran: list[str] = []
    run = backend.run_tasks
    monkeypatch.setattr(
        backend, "run_tasks", lambda kernel, *rest: ran.append(kernel.__name__) or run(kernel, *rest)
    )
    return ran
