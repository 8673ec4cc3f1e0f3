"""Training steps from a CUDA graph: one launch instead of some thousands.

A step of this network is some four thousand short kernels, whose launching takes a CPU several times as long as a large
GPU needs to run them on crops. A graph records them once per shape and replays them at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

logger = logging.getLogger("xyscannet.training")

Compute = Callable[[Tensor, Tensor], dict[str, Tensor]]
_WARMUPS = 2  # steps before recording: compile kernels, let libraries choose theirs


class _Recorded:
    """`compute` for one shape, replayed on its own input and output memory."""

    def __init__(self, compute: Compute, blur: Tensor, sharp: Tensor) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.blur, self.sharp = blur.clone(), sharp.clone()
        stream = torch.cuda.Stream(blur.device)
        torch.cuda.synchronize(blur.device)
        with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
            self.values = compute(self.blur, self.sharp)

    def __call__(self, blur: Tensor, sharp: Tensor) -> dict[str, Tensor]:
        self.blur.copy_(blur)
        self.sharp.copy_(sharp)
        self.graph.replay()
        return self.values


class Recorder:
    """Calls `compute`, and replays it from a CUDA graph when a shape comes for the third time in a row.

    The parameters' gradients then stay where the graph writes them, and the figures where it leaves them until the
    next call. Where nothing can be recorded, each call computes, after clearing the gradients.

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
        self._recorded: _Recorded | None = None
        self._shape: torch.Size | None = None
        self._seen = 0

    def __call__(self, blur: Tensor, sharp: Tensor) -> dict[str, Tensor]:
        if blur.shape != self._shape:
            self._shape, self._seen, self._recorded = blur.shape, 0, None
        if self._recorded is None and self._record and self._seen >= _WARMUPS:
            self._clear()
            try:
                with self._undisturbed:
                    self._recorded = _Recorded(self._compute, blur, sharp)
            except RuntimeError as error:  # out of memory, or an operation that cannot be recorded
                logger.warning("training goes on without CUDA graphs: %s", error)
                self._record = False
                torch.cuda.synchronize(blur.device)
        if self._recorded is not None:
            return self._recorded(blur, sharp)
        self._seen += 1
        self._clear()
        return self._compute(blur, sharp)
