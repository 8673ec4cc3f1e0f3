"""The fused mixer interpreted on the CPU against the float64 definition; test_triton_interpreted.py runs this file."""

from __future__ import annotations

import os

import pytest
import torch

from tests.ops.compare import BOUND, DIRECTIONS, mixer_inputs, rms_ratio
from tests.ops.triton_cases import among_nan
from xyscannet.ops import mixer, use_backend
from xyscannet.ops.mixer import mamba_mixer

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("for TRITON_INTERPRET=1 only", allow_module_level=True)


def assert_matches_definition(inputs, directions, monkeypatch):
    launched = []
    run = mixer._mixer
    monkeypatch.setattr(mixer, "_mixer", lambda *args: launched.append(True) or run(*args))
    found = mamba_mixer(**inputs, directions=directions)
    assert launched and found.dtype == inputs["xz"].dtype
    exact = {name: x.double() for name, x in inputs.items()}
    with use_backend("reference"):
        expected = mamba_mixer(**exact, directions=directions)
    assert rms_ratio(found, expected) <= BOUND[found.dtype]


@pytest.fixture(autouse=True)
def interpreted():
    with use_backend("triton"), torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("length", "channels", "way"),
    [
        (1, 72, "x"),
        (2, 48, "-y"),
        (3, 36, "y"),
        (17, 24, "-x"),
        (63, 12, "y"),
        (129, 12, "-x"),
        (257, 12, "-y"),
    ],
)
def test_every_length(length, channels, way, monkeypatch):
    height, width = (length, 1) if way.endswith("y") else (1, length)
    monkeypatch.setattr("xyscannet.ops.selective_scan.triton.FEW", 0)
    assert_matches_definition(mixer_inputs(1, height, width, 1, channels), (way,), monkeypatch)


def test_all_directions_among_nan(monkeypatch):
    inputs = mixer_inputs(2, 2, 3, 4, 36)
    inputs["xz"] = among_nan(inputs["xz"], (0, 3, 4, 1, 2)).detach()
    assert_matches_definition(inputs, DIRECTIONS, monkeypatch)


@pytest.mark.parametrize(
    "options", [{"rank": 1, "states": 5}, {"rank": 7, "taps": 2, "states": 1}, {"dtype": torch.bfloat16}]
)
def test_options(options, monkeypatch):
    assert_matches_definition(mixer_inputs(1, 2, 19, 2, 40, **options), ("-x", "y"), monkeypatch)


def test_what_the_kernels_do_not_take_runs_operator_by_operator(monkeypatch):
    def never(*args):
        raise AssertionError("the fused kernels ran")

    monkeypatch.setattr(mixer, "_mixer", never)
    few = mixer_inputs(1, 1, 70, 1, 12, states=2)  # one long row: cut in parts
    mamba_mixer(**few, directions=("x",))
    mamba_mixer(**mixer_inputs(1, 2, 2, 1, 12, rank=9, states=2), directions=("x",))
    mamba_mixer(**mixer_inputs(1, 2, 2, 1, 12, taps=5, states=2), directions=("x",))
    with torch.enable_grad():
        small = mixer_inputs(1, 1, 2, 1, 12, states=2)
        small["D"].requires_grad_()
        mamba_mixer(**small, directions=("x",)).sum().backward()
    assert small["D"].grad is not None
