"""Batches on the training device, made ahead of the steps that take them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from xyscannet.data.photos import prefetch
from xyscannet.training.samples import Batch, SampleSource

RENDERED = 4_000_000
"""Pixels whose blur a GPU renders at once."""


def rendered_together(shapes: Iterable[tuple[int, int]], processes: int) -> int:
    """How many steps' crops a GPU renders at once, for the largest of the steps' (patch, batch)."""
    return max(1, RENDERED * processes // max(batch * patch**2 for patch, batch in shapes))


@dataclass(frozen=True)
class Ready:
    """Pairs of one step: blur and sharp (B, 3, H, W) float32 on the training device.

    Attributes:
        seconds: what making it took a background thread, which does not wait for a GPU.
        written: on a GPU, what the stream that uses the pairs has to wait for.
    """

    batch: Batch
    blur: Tensor
    sharp: Tensor
    seconds: float = 0.0
    written: torch.cuda.Event | None = None

    def arrive(self) -> Ready:
        """Let the current stream wait until the pairs are written."""
        if self.written is not None:
            stream = torch.cuda.current_stream(self.blur.device)
            stream.wait_event(self.written)
            for image in (self.blur, self.sharp):
                image.record_stream(stream)
        return self


class Feed:
    """Makes batches in background threads and brings them to the training device.

    On a GPU that happens on a stream of its own, beside training and before it, since the next step waits for it; what
    several steps need is rendered at once.

    Args:
        make: the batch of a step.
        together: how many steps' batches go to the device at once.
        device_use: held while a background thread launches work on a GPU.
        depth: batches made ahead, at least.
    """

    def __init__(
        self,
        make: Callable[[int], Batch],
        samples: SampleSource,
        device: torch.device,
        *,
        depth: int,
        threads: int,
        together: int = 1,
        device_use: AbstractContextManager[object] | None = None,
    ) -> None:
        self._make, self._samples, self._device = make, samples, device
        self._threads, self._together = threads, together
        self._depth = max(-(-depth // together), threads)
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._device_use = device_use or nullcontext()

    @property
    def ahead(self) -> int:
        """Batches that may be made before the first is taken."""
        return (self._depth + 1) * self._together

    def from_step(self, first: int) -> Iterator[Ready]:
        """The batches of the steps from `first` on, without end. Closing the iterator stops the threads.

        An exception of the samples is raised when its step is due, or up to `together` steps before.
        """
        groups = prefetch(
            self._group, itertools.count(first, self._together), depth=self._depth, threads=self._threads
        )
        threads = torch.get_num_threads()
        try:
            with closing(groups):
                for group in groups:
                    yield from group
        finally:
            torch.set_num_threads(threads)  # also of threads that begin later, which `_group` has made one

    def _group(self, first: int) -> list[Ready]:
        torch.set_num_threads(1)  # of this thread and new ones: more would fight with the training thread's
        begin = time.perf_counter()
        batches = [self._make(step) for step in range(first, first + self._together)]
        alike = [list(group) for _, group in itertools.groupby(batches, lambda batch: batch.sharp.shape[-2:])]
        moved = [ready for group in alike for ready in self._to_device(group)]
        seconds = (time.perf_counter() - begin) / len(batches)
        return [Ready(batch, *pair, seconds, written) for batch, pair, written in moved]

    def _to_device(
        self, batches: Sequence[Batch]
    ) -> list[tuple[Batch, tuple[Tensor, Tensor], torch.cuda.Event | None]]:
        if self._stream is None:
            return [
                (batch, pair, None)
                for batch, pair in zip(batches, self._samples.to_device(batches, self._device))
            ]
        with self._device_use, torch.cuda.stream(self._stream):
            pairs = self._samples.to_device(batches, self._device)
            written = self._stream.record_event()
        return [(batch, pair, written) for batch, pair in zip(batches, pairs)]


def rates(crops: int, seconds: float, waited: float, made_in: float, workers: int) -> dict[str, float]:
    """Crops a second of a step in all, of the loader by itself and of the device by itself; the share of waiting.

    Args:
        crops: of the step, over all processes.
        seconds, waited: that the step took, and that the device waited for its batch in them.
        made_in: seconds that a worker took for the batch.
    """
    return {
        "seconds": seconds,
        "crops_per_s": crops / seconds,
        "loader_crops_per_s": crops * workers / max(made_in, 1e-9),
        "device_crops_per_s": crops / max(seconds - waited, 1e-9),
        "data_wait": waited / seconds,
    }
