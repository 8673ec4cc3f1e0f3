"""Training steps from a CUDA graph: one launch instead of some thousands.

A step of this network is some four thousand short kernels, whose launching takes a CPU several times as long as a large
GPU needs to run them on crops. A graph records them once per shape and replays them at once.
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
_WARMUPS = 2  # steps before recording: compile kernels, let libraries choose theirs


class Recorder:
    """Calls `compute`, and replays it from a CUDA graph when a shape comes for the third time.

    The figures stay where the graph leaves them until the next call. The graphs of the two shapes used last are kept,
    where memory allows, since batches of two stages may alternate for a while. Where nothing can be recorded, each
    call computes, after clearing the gradients.

    Args:
        compute: of (blur, sharp): a whole step, which returns figures, all on the GPU and without waiting for it.
        clear: drops the parameters' gradients.
        record: whether to record at all.
        undisturbed: held while recording, so that no other thread launches anything.
    """

    def __init__(
        self,
        compute: Compute,
        clear: Callable[[], None],
        *,
        record: bool,
        undisturbed: AbstractContextManager[object],
    ) -> None:
        self._compute, self._clear, self._record, self._undisturbed = compute, clear, record, undisturbed
        self.recorded: OrderedDict[torch.Size, CudaGraph[dict[str, Tensor]]] = OrderedDict()
        self._seen: dict[torch.Size, int] = {}

    def __call__(self, blur: Tensor, sharp: Tensor) -> dict[str, Tensor]:
        shape = blur.shape
        seen = self._seen.get(shape, 0)
        if self._record and seen >= _WARMUPS and shape not in self.recorded:
            self._add(shape, blur, sharp)
        if shape in self.recorded:
            self.recorded.move_to_end(shape)
            return self.recorded[shape](blur, sharp)
        self._seen[shape] = seen + 1
        self._clear()
        return self._compute(blur, sharp)

    def _add(self, shape: torch.Size, blur: Tensor, sharp: Tensor) -> None:
        while len(self.recorded) > 1:
            self.recorded.popitem(last=False)
        while self._record and shape not in self.recorded:
            self._clear()
            try:
                with self._undisturbed:
                    self.recorded[shape] = CudaGraph(self._compute, blur, sharp)
            except RuntimeError as error:  # out of memory, or an operation that cannot be recorded
                torch.cuda.synchronize(blur.device)
                if self.recorded:
                    self.recorded.clear()
                else:
                    logger.warning("training goes on without CUDA graphs: %s", error)
                    self._record = False
