"""Where training pairs come from: sharp crops blurred on the fly, made ahead by a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from xyscannet.data import blur as synthesis
from xyscannet.data.photos import Photos
from xyscannet.training.config import TrainConfig


@dataclass(frozen=True)
class Batch:
    """One training batch: blur and sharp (B, 3, H, W) float32 in [0, 1], and the photos they come from.

    `blur` is None where the blur is still to be made on the training device; `sharp` then has the margin.
    """

    step: int
    sharp: torch.Tensor
    blur: torch.Tensor | None
    names: tuple[str, ...]


class SampleSource(Protocol):
    """Makes the batch of a step; the same step always gives the same batch."""

    def make(self, step: int, patch: int, batch: int) -> Batch:
        """The batch of a step, called by the background thread."""

    def to_device(self, batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """(blur, sharp) on the training device, called by the training thread."""

    def manifest(self) -> dict[str, Any]:
        """What the data are, for the run's folder."""


class Prefetcher:
    """Makes the batches of consecutive steps ahead in one background thread, in order.

    A failure of the source is raised by `get`. Use as a context manager: leaving it ends the thread.
    """

    def __init__(
        self, source: SampleSource, first_step: int, shape_of: Callable[[int], tuple[int, int]], depth: int
    ) -> None:
        self._source, self._step, self._shape_of = source, first_step, shape_of
        self._queue: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="training-data", daemon=True)

    def __enter__(self) -> Prefetcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def get(self) -> Batch:
        """The next step's batch; waits until it is made."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def _work(self) -> None:
        try:
            while not self._ended.is_set():
                self._put(self._source.make(self._step, *self._shape_of(self._step)))
                self._step += 1
        except BaseException as error:
            self._put(error)

    def _put(self, item: Batch | BaseException) -> None:
        while not self._ended.is_set():
            try:
                return self._queue.put(item, timeout=0.1)
            except queue.Full:
                continue


class SynthesisedPairs:
    """Random crops of sharp photographs, blurred by `data.blur`; everything follows from the seed and the step.

    On a CPU the background thread renders the blur too; for another device it only makes the sharp crops, and
    the blur is rendered there.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._config, self._device = config, device
