"""What all tests share: GPU tests are skipped where there is no GPU."""

from __future__ import annotations

import os

import pytest

# As the command line does; read at torch's first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

# The tests are small: threads would wait for each other and for what runs beside them (tests/ops/conftest.py).
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def memory():
    """The file system of memory:// addresses, empty."""
    fs = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
    fs.store.clear(), fs.pseudo_dirs.clear()
    yield fs
    fs.store.clear(), fs.pseudo_dirs.clear()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
