"""The gated sum's Triton kernels interpreted on the CPU; test_triton_interpreted.py runs this file."""

from __future__ import annotations

import os
from itertools import cycle

import pytest
import torch

from tests.ops.compare import assert_matches_reference, run
from tests.ops.test_kl_gate import GATES, kl_inputs
from tests.ops.triton_cases import among_nan, interpreted
from xyscannet.ops.kl_gate import kl_gated_sum

__all__ = ["interpreted"]

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("for TRITON_INTERPRET=1 only", allow_module_level=True)

SIZES = [(72, 1, 1), (12, 1, 2), (48, 3, 1), (36, 1, 17), (24, 7, 9), (12, 3, 43), (12, 257, 1)]


@pytest.mark.parametrize(("size", "gate"), list(zip(SIZES, cycle(GATES))))
def test_every_number_of_pixels(size, gate):
    assert_matches_reference(kl_gated_sum, kl_inputs((3, *size)), gate=gate)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("factors", [((1, 1), (1, 1)), ((2, 2), (4, 4)), ((1, 3), (4, 1)), ((8, 12), (1, 1))])
def test_smaller_maps(gate, factors):
    assert_matches_reference(kl_gated_sum, kl_inputs((3, 20, 8, 12), factors, layout="half"), gate=gate)


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 1e-2), ("float16", 2e-3), ("float64", 1e-12)])
def test_types(gate, dtype, bound):
    inputs = kl_inputs((2, 13, 5, 7), dtype=getattr(torch, dtype))
    assert_matches_reference(kl_gated_sum, inputs, bound, gate=gate)


@pytest.mark.parametrize("gate", GATES)
def test_among_nan(gate):
    inputs = {name: among_nan(x, (0, 2, 1, 3)) for name, x in kl_inputs((3, 12, 4, 5)).items()}
    assert_matches_reference(kl_gated_sum, inputs, gate=gate)


def test_programs_share_many_tiles(monkeypatch):
    from xyscannet.ops.kl_gate import triton

    monkeypatch.setattr(triton, "PROGRAMS", 3)
    monkeypatch.setattr(triton, "ELEMENTS", 64)
    assert_matches_reference(kl_gated_sum, kl_inputs((2, 20, 6, 5)), gate="mean")


@pytest.mark.parametrize("gate", GATES)
def test_twice_the_same_bits(gate):
    inputs = kl_inputs((2, 24, 6, 8), ((2, 2), (1, 4)))
    results, grads, weights = run(kl_gated_sum, inputs, gate=gate)
    again, more, _ = run(kl_gated_sum, inputs, weights, gate=gate)
    assert torch.equal(results[0], again[0]) and all(torch.equal(grads[n], more[n]) for n in inputs)
