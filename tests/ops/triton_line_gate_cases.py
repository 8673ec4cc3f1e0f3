"""The gates' Triton kernels interpreted on the CPU; test_triton_interpreted.py runs this file."""

from __future__ import annotations

import os

import pytest
import torch

from tests.ops.compare import assert_matches_reference, run
from tests.ops.test_line_gate import line_inputs
from tests.ops.triton_cases import among_nan, interpreted
from xyscannet.ops.line_gate import line_gate, triton

__all__ = ["interpreted"]

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("for TRITON_INTERPRET=1 only", allow_module_level=True)

SIZES = [
    (1, 72, 1, 1),
    (3, 24, 1, 2),
    (1, 48, 3, 1),
    (1, 36, 1, 17),
    (2, 24, 9, 7),
    (1, 12, 3, 63),
    (1, 4, 1, 257),
]


@pytest.mark.parametrize("size", [*SIZES, (1, 12, 129, 1)])
def test_every_number_of_pixels(size):
    assert_matches_reference(line_gate, line_inputs(size))


def test_tiles_meet(monkeypatch):
    monkeypatch.setattr(triton, "ELEMENTS", 64)
    monkeypatch.setattr(triton, "LINES", 2)
    monkeypatch.setattr(triton, "GROUP", 3)
    assert_matches_reference(line_gate, line_inputs((3, 12, 5, 7)))


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 1e-2), ("float16", 2e-3), ("float64", 1e-12)])
def test_types_of_halves(dtype, bound):
    assert_matches_reference(line_gate, line_inputs((2, 26, 5, 4), getattr(torch, dtype), "half"), bound)


def test_among_nan():
    inputs = line_inputs((3, 12, 4, 5))
    inputs["x"] = among_nan(inputs["x"], (0, 2, 1, 3))
    assert_matches_reference(line_gate, inputs)


def test_twice_the_same_bits():
    inputs = line_inputs((2, 24, 4, 5))
    results, grads, weights = run(line_gate, inputs)
    again, more, _ = run(line_gate, inputs, weights)
    assert torch.equal(results[0], again[0]) and all(torch.equal(grads[n], more[n]) for n in inputs)


def test_compiled_whole_and_registered():
    compiled = torch.compile(line_gate, fullgraph=True, backend="aot_eager")
    assert_matches_reference(lambda **given: compiled(**given), line_inputs((2, 6, 2, 3)))
    torch.library.opcheck(
        torch.ops.xyscannet.line_gate.default, (*line_inputs((1, 4, 1, 2)).values(), "triton")
    )


def test_empty_batches():
    _, grads, _ = run(line_gate, line_inputs((0, 4, 3, 3)))
    assert grads["down"].shape == (0, 3, 2)
