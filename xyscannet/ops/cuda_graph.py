"""A function's work on a GPU captured as a CUDA graph, and replayed with one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class CudaGraph(Generic[T]):
    """`function` of some tensors, replayed on its own input and output memory.

    Capturing runs nothing; a call returns what `function` returned, whose tensors every call overwrites. Kernels must
    be compiled, and libraries have chosen theirs, by plain calls before. Other threads may use other streams meanwhile.

    Args:
        inputs: on one GPU; those of a call have their shapes.

    Raises RuntimeError where memory is short, or for an operation that cannot be captured.
    """

    def __init__(self, function: Callable[..., T], *inputs: Tensor) -> None:
        device = inputs[0].device
        self._graph = torch.cuda.CUDAGraph()
        self._inputs = [x.clone() for x in inputs]
        torch.cuda.synchronize(device)
        stream = torch.cuda.Stream(device)  # of this device, undisturbed by the threads of other devices
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> T:
        for kept, x in zip(self._inputs, inputs, strict=True):
            kept.copy_(x)
        self._graph.replay()
        return self._output
