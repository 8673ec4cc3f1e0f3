"""Training steps from a CUDA graph: one launch instead of some thousands.

A step of this network is some four thousand short kernels, whose launching takes a CPU several times as long as a large
GPU needs to run them on crops. A graph captures them once per shape and replays them at once.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from xyscannet.ops.cuda_graph import CudaGraph

logger = logging.getLogger("xyscannet.training")

Compute = Callable[[Tensor, Tensor], dict[str, Tensor]]
_WARMUPS = 2  # steps before capturing: compile kernels, let libraries choose theirs


class GraphedStep:
    """Calls `compute`, and replays it from a CUDA graph when a shape comes for the third time.

    The figures stay where the graph leaves them until the next call. The graphs of the two shapes used last are kept,
    where memory allows, since batches of two stages may alternate for a while. Where nothing can be captured, each
    call computes, after clearing the gradients.

    Args:
        compute: of (blur, sharp): a whole step, which returns figures, all on the GPU and without waiting for it.
        clear: drops the parameters' gradients.
        capture: whether to capture at all.
        undisturbed: held while capturing, so that no other thread launches anything.
    """

    def __init__(
        self,
        compute: Compute,
        clear: Callable[[], None],
        *,
        capture: bool,
        undisturbed: AbstractContextManager[object],
    ) -> None:
        self._compute, self._clear, self._capture, self._undisturbed = compute, clear, capture, undisturbed
        self.captured: OrderedDict[torch.Size, CudaGraph[dict[str, Tensor]]] = OrderedDict()
        self._seen: dict[torch.Size, int] = {}

    def __call__(self, blur: Tensor, sharp: Tensor) -> dict[str, Tensor]:
        shape = blur.shape
        seen = self._seen.get(shape, 0)
        if self._capture and seen >= _WARMUPS and shape not in self.captured:
            self._add(shape, blur, sharp)
        if shape in self.captured:
            self.captured.move_to_end(shape)
            return self.captured[shape](blur, sharp)
        self._seen[shape] = seen + 1
        self._clear()
        return self._compute(blur, sharp)

    def _add(self, shape: torch.Size, blur: Tensor, sharp: Tensor) -> None:
        while len(self.captured) > 1:
            self.captured.popitem(last=False)
        while self._capture and shape not in self.captured:
            self._clear()
            try:
                with self._undisturbed:
                    self.captured[shape] = CudaGraph(self._compute, blur, sharp)
            except RuntimeError as error:  # out of memory, or an operation that cannot be captured
                torch.cuda.synchronize(blur.device)
                if self.captured:
                    self.captured.clear()
                else:
                    logger.warning("training goes on without CUDA graphs: %s", error)
                    self._capture = False
