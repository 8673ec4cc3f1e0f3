"""Measure samples on a Ray cluster: each is restored and measured by one worker, and counted in the set's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from xyscannet.evaluation.engine import Keep, Sample, measure, unmeasured
from xyscannet.evaluation.sources import Source
from xyscannet.inference.cluster import MOST_LOSSES, Cluster, Work, pause_point
from xyscannet.inference.on_cluster import Placed
from xyscannet.metrics.base import Metric


@dataclass(frozen=True)
class Measuring:
    """What a worker restores and measures with.

    Attributes:
        source: what makes or has the restored images; one with a `model` has it on the CPU.
        metrics: builds the metrics, in the worker.
        placed: what readies the source's network there, where it has one.
    """

    source: Source
    metrics: Callable[[], Sequence[Metric]]
    placed: Placed | None = None

    def __call__(self) -> Work:
        if self.placed is not None:
            self.source.model = self.placed.ready()
        metrics = self.metrics()
        of_images = [metric for metric in metrics if metric.kind == "image"]
        of_sets = [metric for metric in metrics if metric.kind != "image"]
        return partial(_work, self.source, of_images, of_sets)


def _work(
    source: Source, of_images: Sequence[Metric], of_sets: Sequence[Metric], unit: Any, losses: int
) -> Any:
    pause_point()
    with _heard(source) as told:
        measured = measure(unit[1], source, of_images, of_sets)
    return *measured, told


@contextmanager
def _heard(source: Source) -> Iterator[list[str]]:
    """What the source tells, for the process that speaks to the user."""
    told: list[str] = []
    if hasattr(source, "tell"):
        source.tell = told.append
    yield told


def measure_on(
    cluster: Cluster,
    measuring: Measuring,
    samples: Sequence[Sample],
    keep: Keep,
    *,
    tell: Callable[[str], None] = lambda text: None,
    folder: str | None = None,
) -> None:
    """Measure samples on the workers of a cluster. Bind the first two arguments for `evaluate`'s `across`.

    Args:
        keep: called with each result in the samples' order.
        tell: hears the source's warnings.
        folder: each worker's current folder, where the samples' paths are relative.
    """
    _Ordered(cluster, measuring, samples, keep, tell).run(folder)


@dataclass
class _Ordered:
    cluster: Cluster
    measuring: Measuring
    samples: Sequence[Sample]
    keep: Keep
    tell: Callable[[str], None]
    waiting: dict[int, Any] = field(default_factory=dict)  # results that came before an earlier sample's
    kept: int = 0

    def run(self, folder: str | None) -> None:
        units = list(enumerate(self.samples))
        self.cluster.run(self.measuring, units, finished=self._take, folder=folder)

    def _take(self, unit: tuple[int, Sample], result: Any) -> None:
        if result is None:
            reason = f"{unit[1].name}: given up: {MOST_LOSSES} workers were lost over it"
            result = unmeasured(unit[1], reason), {}, {}, []
        self.waiting[unit[0]] = result
        while self.kept in self.waiting:
            *measured, told = self.waiting.pop(self.kept)
            self.kept += 1
            for text in told:
                self.tell(text)
            self.keep(*measured)
