"""Measuring elsewhere, in whatever order: the results and sums of measuring here. A real cluster is in tests/cli."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from xyscannet.data.sets import Sample
from xyscannet.evaluation import AsIs, Journal, evaluate
from xyscannet.evaluation.on_cluster import Measuring, measure_on
from xyscannet.metrics.base import DistributionMetric, ImageMetric, MetricInfo


class Backwards:
    """A cluster that does the last unit first, and loses the workers of one."""

    def __init__(self, loses: str = "") -> None:
        self.loses = loses

    def run(self, make, units, *, finished, folder) -> None:
        work = pickle.loads(pickle.dumps(make))()
        for unit in reversed(units):
            result = None if unit[1].name == self.loses else work(unit, 0)
            finished(unit, result if result is None else pickle.loads(pickle.dumps(result)))


class Order(DistributionMetric):
    """The first pixel of every image, in the order of the images."""

    def __init__(self) -> None:
        super().__init__(MetricInfo("order", "Order", True, False, kind="distribution"), "")
        self.seen: list[int] = []

    def share(self, restored, sharp=None):
        return {"seen": restored[0, 0, :1]}

    def state(self):
        return {"seen": np.array(self.seen)}

    def resume(self, state) -> None:
        self.seen = list(map(int, state.get("seen", ())))

    def merge(self, state) -> None:
        self.seen += map(int, state.get("seen", ()))

    def compute(self):
        return {"order": float("".join(map(str, self.seen)))}


def mean(restored, sharp) -> float:
    return float(restored.mean())


def metrics():
    return [ImageMetric(MetricInfo("mean", "Mean", True, False), "", mean), Order()]


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    made = []
    for i in range(1, 7):
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), np.full((4, 4, 3), i, np.uint8))
        made.append(Sample(f"{i}", path, None, ""))
    (tmp_path / "3.png").write_bytes(b"no image")
    return made


def run(folder: Path, samples, across=None):
    with Journal(folder, {"what": "test"}) as journal:
        return evaluate(samples, AsIs(), metrics(), journal, dataset="d", protocol="plain", across=across)


def facts(evaluation) -> tuple:
    return evaluation.images, {name: s.mean for name, s in evaluation.summaries.items()}


def test_measured_backwards(samples, tmp_path: Path) -> None:
    here = run(tmp_path / "here", samples)
    across = partial(measure_on, Backwards(), Measuring(AsIs(), metrics))
    there = run(tmp_path / "there", samples, across)
    assert facts(here) == facts(there) and here.summaries["order"].mean == 12456
    assert run(tmp_path / "there", samples, None).images == there.images  # nothing is left to do


def test_a_run_goes_on_elsewhere(samples, tmp_path: Path) -> None:
    here = run(tmp_path / "here", samples)
    run(tmp_path / "both", samples[:2])
    both = run(tmp_path / "both", samples, partial(measure_on, Backwards(), Measuring(AsIs(), metrics)))
    assert facts(both) == facts(here)


def test_a_sample_that_loses_every_worker_is_listed(samples, tmp_path: Path) -> None:
    across = partial(measure_on, Backwards(loses="5"), Measuring(AsIs(), metrics))
    found = run(tmp_path / "out", samples, across)
    (lost,) = [image for image in found.images if image.name == "5"]
    assert "given up" in lost.failures["image"] and lost.values == {"mean": None}
    assert found.summaries["mean"].failed == 2 and found.summaries["order"].mean == 1246
    assert replace(lost, failures={}).blur == str(samples[4].blur)
