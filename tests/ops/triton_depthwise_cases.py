"""The depth-wise convolution's Triton kernels interpreted on the CPU; test_triton_interpreted.py runs this file."""

from __future__ import annotations

import os
from itertools import cycle, product

import pytest
import torch

from tests.ops.compare import assert_matches_reference, run
from tests.ops.test_depthwise import FUNCTIONS, conv_inputs, joined_halves
from tests.ops.triton_cases import among_nan, interpreted
from xyscannet.ops.depthwise import depthwise_conv, depthwise_silu_gate, triton

__all__ = ["interpreted"]

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("for TRITON_INTERPRET=1 only", allow_module_level=True)

APART = [depthwise_conv, depthwise_silu_gate]
"""Those with a kernel of their own: interpreted ones are slow."""
SIZES = [
    (1, 72, 1, 1),
    (3, 24, 1, 2),
    (1, 48, 3, 1),
    (1, 36, 1, 17),
    (1, 24, 9, 7),
    (1, 4, 11, 3),
    (1, 4, 1, 257),
]


@pytest.mark.parametrize(
    ("size", "function"),
    [*product(SIZES, [depthwise_silu_gate]), *zip(SIZES, cycle([depthwise_conv, joined_halves]))],
)
def test_every_number_of_pixels(size, function, monkeypatch):
    monkeypatch.setattr(
        triton, "ROWS", 2
    )  # fewer rows beyond small images, which take as long as those within
    assert_matches_reference(function, conv_inputs(size))


@pytest.mark.parametrize("function", APART)
@pytest.mark.parametrize(("columns", "rows"), [(1, 2), (2, 3), (4, 1)])
def test_tiles_meet(function, columns, rows, monkeypatch):
    """Rows and columns at the edges of tiles get what their neighbours in other tiles give them."""
    monkeypatch.setattr(triton, "ELEMENTS", 16 * columns)
    monkeypatch.setattr(triton, "ROWS", rows)
    monkeypatch.setattr(triton, "PROGRAMS", 3)
    assert_matches_reference(function, conv_inputs((1, 12, 4, 5)))  # of one image: they do not meet others


@pytest.mark.parametrize(
    ("dtype", "bound", "function"),
    [
        *(("bfloat16", 1e-2, function) for function in FUNCTIONS),
        ("float16", 2e-3, joined_halves),
        ("float64", 1e-12, depthwise_conv),
        ("float16", 2e-3, depthwise_silu_gate),
        ("float64", 1e-12, depthwise_silu_gate),
    ],
)
def test_types_of_halves(dtype, bound, function):
    inputs = conv_inputs((2, 26, 5, 4), getattr(torch, dtype), "half")
    assert_matches_reference(function, inputs, bound)


@pytest.mark.parametrize("function", APART)
def test_among_nan(function):
    inputs = conv_inputs((3, 12, 4, 5))
    inputs = {"x": among_nan(inputs["x"], (0, 2, 1, 3)), "weight": among_nan(inputs["weight"], (1, 3, 0, 2))}
    assert_matches_reference(function, inputs)


def test_nan_stays_where_it_is_seen():
    x, weight = (t.detach() for t in conv_inputs((1, 12, 10, 9)).values())
    x[0, 5, 8, 4] = float("nan")
    seen = depthwise_conv(x, weight).isnan().nonzero()
    assert [tuple(at.tolist()) for at in seen] == [(0, 5, i, j) for i in (7, 8, 9) for j in (3, 4, 5)]


@pytest.mark.parametrize("function", APART)
def test_twice_the_same_bits(function):
    inputs = conv_inputs((2, 12, 2, 5))
    results, grads, weights = run(function, inputs)
    again, more, _ = run(function, inputs, weights)
    assert torch.equal(results[0], again[0]) and all(torch.equal(grads[n], more[n]) for n in inputs)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiled_whole(function):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_matches_reference(lambda **given: compiled(**given), conv_inputs((2, 6, 2, 3)))


@pytest.mark.parametrize("gated", [False, True])
def test_registration_is_complete(gated):
    inputs = conv_inputs((1, 4, 1, 2))
    torch.library.opcheck(torch.ops.xyscannet.depthwise.default, (*inputs.values(), gated, "triton"))
