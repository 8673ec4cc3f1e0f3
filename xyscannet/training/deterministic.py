"""One seed, one result: every operation in the form that gives the same bits each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic as filling


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """While entered, torch takes deterministic algorithms only, and an operation that has none is an error.

    cuDNN does not time its algorithms against each other, and cuBLAS gets the fixed workspace it needs; cuBLAS reads
    that once, at the process's first product on the GPU. What was set before is set again afterwards.
    """
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        filling.fill_uninitialized_memory,
        cudnn.deterministic,
        cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False  # the kernels write every element of what they allocate
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        filling.fill_uninitialized_memory, cudnn.deterministic, cudnn.benchmark = before[2:]
