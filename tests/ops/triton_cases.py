"""The Triton kernels interpreted against the float64 reference; test_triton_interpreted.py runs this file."""

from __future__ import annotations

import mmap
import os

import pytest
import torch

from tests.ops.compare import DIRECTIONS, assert_matches_reference, conv_inputs, run, scan_inputs
from tests.ops.test_selective_scan_fn import sequence_inputs
from xyscannet.ops import (
    active_backend,
    causal_conv1d_fn,
    selective_scan_fn,
    slice_conv1d,
    slice_scan,
    use_backend,
)

LENGTHS = [
    (1, 72, "x"),
    (2, 48, "-y"),
    (3, 36, "y"),
    (17, 24, "-x"),
    (63, 12, "y"),
    (129, 12, "-x"),
    (257, 12, "-y"),
]

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("for TRITON_INTERPRET=1 only", allow_module_level=True)


import tests.ops.interpreting  # noqa: E402, F401 -- triton is imported where it interprets only


@pytest.fixture(autouse=True)
def interpreted():
    with use_backend("triton"):
        assert active_backend("cpu") == "triton"
        yield


def among_nan(x: torch.Tensor, order=(0, 1, 2, 3, 4)) -> torch.Tensor:
    """The same values with NaN all around them and, from one storage order to another, other strides."""
    shape = [x.shape[axis] for axis in order]
    storage = torch.full([2 * size + 1 for size in shape], float("nan"), dtype=x.dtype)
    view = storage[tuple(slice(1, None, 2) for _ in shape)].permute(
        [order.index(axis) for axis in range(x.dim())]
    )
    return view.copy_(x.detach()).requires_grad_()


@pytest.mark.parametrize(("length", "channels", "way"), LENGTHS[:-1])  # 129 steps are 17 chunks in 5 parts
def test_scan_of_every_length(length, channels, way):
    height, width = (length, 1) if way.endswith("y") else (1, length)
    inputs = scan_inputs(1, height, width, 1, channels)
    assert_matches_reference(slice_scan, inputs, delta_softplus=True, directions=(way,))


def test_scan_in_all_directions_among_nan():
    inputs = scan_inputs(batch=2, height=1, width=2, channels=12)
    for name, order in (("u", (0, 3, 4, 1, 2)), ("delta", (0, 2, 1, 3, 4)), ("z", (4, 3, 2, 1, 0))):
        inputs[name] = among_nan(inputs[name], order)
    inputs["B"] = among_nan(inputs["B"])
    assert_matches_reference(slice_scan, inputs, delta_softplus=True, directions=DIRECTIONS)


def test_scan_in_half_precision():
    inputs = scan_inputs(1, 1, 3, 2, 36, dtype=torch.bfloat16)
    assert_matches_reference(slice_scan, inputs, delta_softplus=True, directions=("-x", "y"))
    inputs = {name: x.half() if x.dtype == torch.bfloat16 else x for name, x in inputs.items()}
    inputs = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    assert_matches_reference(slice_scan, inputs, 2e-3, delta_softplus=True, directions=("-x", "y"))


@pytest.mark.parametrize("states", [1, 5, 16])
def test_scan_without_what_may_be_missing(states):
    inputs = scan_inputs(1, 2, 3, 1, 12, states, torch.float64, without=("D", "z", "delta_bias"))
    inputs["delta"] = inputs["delta"].detach().abs().requires_grad_()
    assert_matches_reference(slice_scan, inputs, directions=("y",))


def test_small_and_large_steps():
    """softplus and its slope where log(1 + exp(x)) loses its digits, and where exp(x) overflows."""
    inputs = scan_inputs(1, 1, 8, 1, 12, 2, without=("delta_bias",))
    inputs["delta"] = torch.linspace(-40, 100, 96).view(1, 1, 8, 1, 12).requires_grad_()
    assert_matches_reference(slice_scan, inputs, delta_softplus=True, directions=("x",))
    inputs["delta"] = torch.linspace(-20, -10, 96).view(1, 1, 8, 1, 12).requires_grad_()
    assert_matches_reference(slice_scan, inputs, delta_softplus=True, directions=("x",))


def test_more_branches_than_one_launch_takes():
    inputs = sequence_inputs(batch=1, channels=33, length=2, states=2, groups_b=0)
    assert_matches_reference(selective_scan_fn, inputs, delta_softplus=True, return_last_state=True)


def test_offsets_of_a_map_of_8192_by_8192_pixels():
    """The corners' rows of a bf16 map (1, 8192, 8192, 2, 48): 12.9 GB of addresses, of which a few pages are used."""
    size, channels = 8192, 48
    memory = mmap.mmap(-1, size * size * 2 * channels * 2, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    whole = torch.frombuffer(memory, dtype=torch.bfloat16).view(1, size, size, 2, channels)
    corners = whole[:, :: size - 1, :: size - 1]  # (1, 2, 2, 2, 48)
    assert corners.stride(1) * (corners.shape[1] - 1) > 2**32
    inputs = scan_inputs(1, 2, 2, 2, channels, 2, torch.bfloat16)
    with torch.no_grad():
        corners.copy_(inputs["u"])
        far = {**inputs, "u": corners}
        out, expected = (slice_scan(**x, delta_softplus=True, directions=("-x", "y")) for x in (far, inputs))
        weight = torch.randn(channels, 4)
        conv, expected_conv = (slice_conv1d(x["u"], weight, directions=("y", "-y")) for x in (far, inputs))
    assert torch.equal(out, expected) and torch.equal(conv, expected_conv)


def test_last_state_of_groups():
    inputs = sequence_inputs(batch=3, length=5, groups_b=2, strided=True)
    assert_matches_reference(selective_scan_fn, inputs, delta_softplus=True, return_last_state=True)


def test_last_states_of_rows_and_columns():
    from xyscannet.ops.selective_scan import reference, triton

    x = {name: value.detach() for name, value in scan_inputs(2, 2, 3, 4, 12, 2).items()}
    each = {name: x[name].expand(4, *x[name].shape) for name in ("A", "D", "delta_bias")}
    inputs = [each.get(name, x.get(name)) for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")]
    out, last = torch.empty_like(x["u"]), torch.empty(2 * (2 + 2 + 3 + 3), 12, 2)
    triton.forward(*inputs, True, DIRECTIONS, out, None, last)
    expected, states = reference.scan(*inputs, True, DIRECTIONS)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(last, states, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "directions"), [((1, 9), ("x", "-x")), ((17, 1), ("y",)), ((2, 9), ("-x", "y"))]
)
def test_long_rows_are_walked_in_parts(monkeypatch, size, directions):
    from xyscannet.ops.selective_scan import triton

    cuts = []
    cut = triton.cut
    monkeypatch.setattr(triton, "PART", 4 * triton.GROUP)
    monkeypatch.setattr(triton, "CHUNK", 4)
    monkeypatch.setattr(triton, "cut", lambda *args: cuts.append(cut(*args)) or (-(-max(size) // 8), 8))
    inputs = scan_inputs(1, *size, len(directions), 12, 3)
    inputs["u"] = among_nan(inputs["u"], (0, 3, 4, 1, 2))
    assert_matches_reference(slice_scan, inputs, delta_softplus=True, directions=directions)
    assert cuts


def test_last_state_of_a_row_in_parts(monkeypatch):
    from xyscannet.ops.selective_scan import triton

    monkeypatch.setattr(triton, "PART", triton.CHUNK)
    inputs = sequence_inputs(batch=1, length=17, channels=12, states=2)
    assert_matches_reference(selective_scan_fn, inputs, delta_softplus=True, return_last_state=True)


def test_rows_are_cut_only_where_they_are_few_and_long():
    from xyscannet.ops.selective_scan.triton import PART, cut

    assert cut((1, 1, 1280, 1, 48), ("x",)) == (40, PART)
    assert cut((1, 720, 1280, 2, 48), ("x", "y"))[0] == 1
    assert cut((1, 1, 2 * PART, 1, 48), ("x",))[0] == 1
    assert cut((2, 3, 5, 4, 12), DIRECTIONS) == (1, 8)


def test_programs_share_many_rows(monkeypatch):
    from xyscannet.ops.causal_conv1d import triton as conv
    from xyscannet.ops.selective_scan import triton as scan

    for module in (scan, conv):
        monkeypatch.setattr(module, "PROGRAMS", 3)
    inputs = scan_inputs(2, 4, 1, 1, 12, 2)
    assert_matches_reference(slice_scan, inputs, delta_softplus=True, directions=("x",))
    assert_matches_reference(slice_conv1d, conv_inputs(2, 4, 1, 1), directions=("x",))


def test_conv_in_all_directions_among_nan():
    inputs = conv_inputs(batch=3, height=2, width=3)
    inputs["x"] = among_nan(inputs["x"], (0, 3, 4, 2, 1))
    assert_matches_reference(slice_conv1d, inputs, directions=DIRECTIONS)


@pytest.mark.parametrize(("length", "channels", "way"), LENGTHS)
def test_conv_of_every_length(length, channels, way):
    height, width = (length, 1) if way.endswith("y") else (1, length)
    assert_matches_reference(slice_conv1d, conv_inputs(1, height, width, 1, channels), directions=(way,))


OPTIONS = [{"taps": 3, "bias": False}, {"taps": 1, "dtype": torch.float64}, {"dtype": torch.bfloat16}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("activation", [None, "silu"])
def test_conv_options(options, activation):
    inputs = conv_inputs(1, 2, 3, 1, **options)
    assert_matches_reference(slice_conv1d, inputs, activation=activation, directions=("-x",))


def test_conv_of_sequences():
    inputs = {"x": torch.randn(3, 24, 5).requires_grad_(), "weight": torch.randn(24, 4).requires_grad_()}
    assert_matches_reference(causal_conv1d_fn, inputs, activation="silu")


def test_twice_the_same_bits():
    inputs = scan_inputs(1, 2, 2, 1, 36, 2)
    weights, first = None, None
    for _ in range(2):
        results, grads, weights = run(slice_scan, inputs, weights, delta_softplus=True, directions=("x",))
        first = first or (results, grads)
    assert torch.equal(results[0], first[0][0]) and all(torch.equal(grads[n], first[1][n]) for n in inputs)
