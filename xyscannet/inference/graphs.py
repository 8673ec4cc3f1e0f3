"""CUDA graphs for image sizes that come again (video, tiles, benchmarks): one launch instead of some hundreds.

A forward of this network is several hundred short kernels, whose launching takes a CPU longer than a GPU needs to run
them at moderate sizes. A graph captures them once and replays them at once.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from xyscannet.inference.precision import float32_settings
from xyscannet.models import XYScanNetConfig
from xyscannet.ops import active_backend
from xyscannet.ops.cuda_graph import CudaGraph

logger = logging.getLogger("xyscannet.inference")

_WARMUPS = 2  # calls before capturing: compile kernels, let libraries choose theirs


class _Captured:
    """A forward for one size and type, from a CUDA graph; results are the caller's own."""

    def __init__(self, network: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype | None) -> None:
        def forward(image: Tensor) -> Tensor:
            # A cast weight in autocast's cache would be freed when the caller's context ends, under the graph.
            with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None, cache_enabled=False):
                return network(image)

        self._graph = CudaGraph(forward, x)

    def __call__(self, x: Tensor) -> Tensor:
        return self._graph(x).clone(memory_format=torch.preserve_format)


def without_graphs(network: nn.Module) -> nn.Module:
    """The network that is replayed, or the one that is not."""
    return network.network if isinstance(network, CudaGraphs) else network


def _pixels(shape: Sequence[int]) -> int:
    return shape[0] * shape[-2] * shape[-1]


class CudaGraphs(nn.Module):
    """A network for inference that is replayed from a CUDA graph when an input's size comes for the third time.

    Input and output as the network's. Where there is nothing to gain or a graph cannot be right (CPU tensors,
    gradients), the network itself runs. A graph keeps the memory of its forward; those used last are kept, of at most
    `room` times the pixels of the largest (a picture, the smaller ones made of it and windows of those), and none of an
    input above `most_pixels` pixels, where launching takes a small part of the time.
    Weights must not be replaced in the meantime; changes in place are seen.
    """

    def __init__(self, network: nn.Module, room: float = 1.5, most_pixels: int = 4_000_000) -> None:
        super().__init__()
        self.network, self.room, self.most_pixels = network, room, most_pixels
        self._seen: dict[tuple, int] = {}
        self._captured: OrderedDict[tuple, _Captured] = OrderedDict()

    @property
    def config(self) -> XYScanNetConfig:
        return self.network.config

    def forward(self, x: Tensor) -> Tensor:
        if not self._suits(x):
            return self.network(x)
        dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else None
        how = active_backend(x.device.type), *(value for _, _, value in float32_settings())
        key = (tuple(x.shape), x.stride(), x.dtype, dtype, x.device, *how)
        if key in self._captured:
            self._captured.move_to_end(key)
            return self._captured[key](x)
        self._seen[key] = self._seen.get(key, 0) + 1
        if self._seen[key] <= _WARMUPS:
            return self.network(x)
        return self._capture(key, x, dtype)

    def forget(self) -> None:
        """Drop all graphs and the memory that they keep."""
        self._captured.clear()
        self._seen.clear()

    def _suits(self, x: Tensor) -> bool:
        few = _pixels(x.shape) <= self.most_pixels
        return x.is_cuda and few and not torch.is_grad_enabled()

    def _capture(self, key: tuple, x: Tensor, dtype: torch.dtype | None) -> Tensor:
        sizes = [_pixels(other[0]) for other in (*self._captured, key)]
        while self._captured and sum(sizes) > self.room * max(sizes):
            self._captured.popitem(last=False)
            del sizes[0]
        try:
            self._captured[key] = _Captured(self.network, x, dtype)
        except RuntimeError as error:  # out of memory, or an operation that cannot be captured
            logger.warning("CUDA graphs are not used for %s: %s", "x".join(map(str, key[0])), error)
            self.most_pixels = 0
            torch.cuda.synchronize(x.device)
            return self.network(x)
        return self._captured[key](x)
