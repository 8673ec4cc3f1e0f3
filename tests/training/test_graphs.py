"""When steps are captured and replayed, with a stand-in for CUDA graphs; that results are right is in test_gpu.py."""

from __future__ import annotations

import contextlib
from typing import ClassVar

import pytest
import torch

from xyscannet.training import graphs
from xyscannet.training.graphs import GraphedStep


class Steps:
    """Counts what is computed and cleared."""

    def __init__(self) -> None:
        self.computed, self.cleared = 0, 0

    def compute(self, blur: torch.Tensor, sharp: torch.Tensor) -> dict[str, torch.Tensor]:
        self.computed += 1
        return {"loss": (blur - sharp).sum()}

    def clear(self) -> None:
        self.cleared += 1

    def graphed(self, capture: bool = True) -> GraphedStep:
        return GraphedStep(self.compute, self.clear, capture=capture, undisturbed=contextlib.nullcontext())


class Replayed:
    """In the place of a captured step: twice what the step computes, to tell them apart."""

    made: ClassVar[list[torch.Size]] = []
    fails = 0

    def __init__(self, compute, blur, sharp) -> None:
        if type(self).fails:
            type(self).fails -= 1
            raise RuntimeError("operation not permitted when stream is capturing")
        self.made.append(blur.shape)

    def __call__(self, blur, sharp):
        return {"loss": 2 * (blur - sharp).sum()}


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(graphs, "CudaGraph", Replayed)
    monkeypatch.setattr(Replayed, "made", [])
    monkeypatch.setattr(Replayed, "fails", 0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)


def pair(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(1, 3, size, size), torch.zeros(1, 3, size, size)


def loss(graphed: GraphedStep, size: int) -> float:
    return graphed(*pair(size))["loss"].item() / (3 * size * size)


def test_nothing_is_captured_unless_asked_for(stand_in) -> None:
    steps = Steps()
    graphed = steps.graphed(capture=False)
    assert [loss(graphed, 4) for _ in range(5)] == [1] * 5
    assert steps.computed == steps.cleared == 5 and not Replayed.made


def test_a_shape_is_captured_at_its_third_time_and_its_gradients_then_stay(stand_in) -> None:
    steps = Steps()
    graphed = steps.graphed()
    assert [loss(graphed, 4) for _ in range(5)] == [1, 1, 2, 2, 2]
    assert steps.computed == 2 and steps.cleared == 3 and len(Replayed.made) == 1


def test_two_shapes_may_alternate(stand_in) -> None:
    graphed = Steps().graphed()
    found = [loss(graphed, size) for size in [4, 6] * 4]
    assert found == [1, 1, 1, 1, 2, 2, 2, 2] and len(Replayed.made) == 2
    assert [loss(graphed, 8) for _ in range(3)] == [1, 1, 2]
    assert [shape[-1] for shape in graphed.captured] == [6, 8]


def test_where_memory_is_short_the_other_graph_gives_way(stand_in) -> None:
    graphed = Steps().graphed()
    for _ in range(3):
        loss(graphed, 4)
    Replayed.fails = 1
    assert [loss(graphed, 6) for _ in range(3)] == [1, 1, 2]
    assert [shape[-1] for shape in graphed.captured] == [6]


def test_what_cannot_be_captured_is_computed_and_said_once(stand_in, caplog) -> None:
    steps = Steps()
    graphed = steps.graphed()
    Replayed.fails = 100
    assert [loss(graphed, 4) for _ in range(6)] == [1] * 6
    assert steps.computed == 6 and Replayed.fails == 99
    assert [record.message for record in caplog.records if "without CUDA graphs" in record.message] == [
        "training goes on without CUDA graphs: operation not permitted when stream is capturing"
    ]
