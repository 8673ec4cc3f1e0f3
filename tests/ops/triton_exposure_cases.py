"""The exposure's Triton kernel interpreted on the CPU; test_triton_interpreted.py runs this file."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from tests.ops.test_exposure import assert_matches_reference, drawn
from tests.ops.triton_cases import interpreted
from xyscannet.ops import use_backend
from xyscannet.ops.exposure import Exposure, gathered, triton

__all__ = ["interpreted"]

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("for TRITON_INTERPRET=1 only", allow_module_level=True)


def test_the_kernel_is_what_runs(monkeypatch):
    ran: list[Exposure] = []
    monkeypatch.setattr(triton, "gathered", ran.append)
    gathered(drawn(0))
    with use_backend("reference"):
        assert gathered(drawn(0)) is not None
    assert len(ran) == 1


@pytest.mark.parametrize(("objects", "lit"), [(0, False), (0, True), (1, False), (2, True)])
def test_objects_and_highlights(objects, lit):
    assert_matches_reference(drawn(objects, batch=2, size=(5, 33), objects=objects, lit=lit))


@pytest.mark.parametrize("size", [(1, 1), (4, 32), (9, 3)])
def test_sizes(size):
    assert_matches_reference(drawn(1, batch=1, size=size))


def test_far_beyond_the_scene():
    assert_matches_reference(drawn(3, batch=2, size=(5, 9), margin=0, shift=60, turn=0.3))


def test_channels_last_and_other_strides():
    exposure = drawn(4, batch=2, size=(5, 9))
    light, weights = exposure.light.to(memory_format=torch.channels_last), exposure.weights
    assert_matches_reference(replace(exposure, light=light, weights=weights.t().contiguous().t()))


def test_twice_the_same_bits():
    exposure = drawn(5, batch=2, size=(5, 9))
    assert torch.equal(gathered(exposure), gathered(exposure))
