from __future__ import annotations

import pytest
import torch

from tests.ops.compare import DIRECTIONS, assert_matches_reference, rms_ratio, run, scan_inputs
from xyscannet.ops import slice_scan, use_backend


@pytest.mark.parametrize("length", [1, 2, 3, 17, 63, 129])
def test_every_direction_and_gradient_at_odd_lengths(length):
    options = {"delta_softplus": True, "directions": DIRECTIONS}
    assert_matches_reference(slice_scan, scan_inputs(height=3, width=length), **options)
    assert_matches_reference(slice_scan, scan_inputs(batch=1, height=length, width=2), **options)


@pytest.mark.parametrize("channels", [1, 5, 12, 24, 36, 48, 100, 200])
def test_every_width_of_channels(channels):
    inputs = scan_inputs(batch=3, channels=channels, width=19)
    assert_matches_reference(slice_scan, inputs, delta_softplus=True, directions=DIRECTIONS)


@pytest.mark.parametrize("channels", [100, 130, 200])
def test_blocks_of_channels_leave_nothing_behind(channels):
    """On one thread one call runs all blocks; lanes of a wide block once leaked into the next, narrower one."""
    torch.set_num_threads(1)
    inputs = scan_inputs(channels=channels, width=19)
    assert_matches_reference(slice_scan, inputs, delta_softplus=True, directions=DIRECTIONS)


@pytest.mark.parametrize("states", [1, 3, 16, 17, 64])
def test_every_number_of_states(states):
    assert_matches_reference(
        slice_scan, scan_inputs(states=states, width=18), directions=DIRECTIONS, delta_softplus=True
    )


@pytest.mark.parametrize("without", [("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")])
@pytest.mark.parametrize("softplus", [False, True])
def test_without_the_optional_inputs(without, softplus):
    inputs = scan_inputs(without=without)
    if not softplus:
        inputs["delta"] = inputs["delta"].detach().abs().requires_grad_()
        inputs.pop("delta_bias", None)
    assert_matches_reference(slice_scan, inputs, directions=DIRECTIONS, delta_softplus=softplus)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_keep_float32_parameters(dtype):
    """Under autocast u, delta, B, C and z are half precision while A, D and the bias are float32."""
    inputs = scan_inputs(dtype=dtype, width=33)
    bound = {torch.float16: 1e-2}.get(dtype)
    assert_matches_reference(slice_scan, inputs, bound=bound, directions=DIRECTIONS, delta_softplus=True)


def test_mixed_types_within_one_call():
    inputs = scan_inputs(width=20)
    for name in ("delta", "C"):
        inputs[name] = inputs[name].detach().bfloat16().requires_grad_()
    assert_matches_reference(slice_scan, inputs, bound=1e-2, directions=DIRECTIONS, delta_softplus=True)


def test_any_strides():
    inputs = scan_inputs(height=4, width=18)
    inputs["u"] = torch.randn(2, 4, 12, 4, 18).permute(0, 1, 4, 3, 2).requires_grad_()
    inputs["delta"] = torch.randn(12, 4, 4, 18, 2).permute(4, 1, 3, 2, 0).requires_grad_()
    inputs["B"] = torch.randn(2, 1, 18, 1, 16).expand(2, 4, 18, 4, 16).requires_grad_()
    inputs["z"] = torch.randn(2, 8, 36, 4, 24)[:, ::2, ::2, :, ::2].requires_grad_()
    inputs["A"] = (-torch.rand(16, 12)).t().requires_grad_()
    inputs["D"] = torch.randn(1).expand(12).requires_grad_()
    assert_matches_reference(slice_scan, inputs, directions=DIRECTIONS, delta_softplus=True)
    assert slice_scan(**inputs, directions=DIRECTIONS).is_contiguous()


def test_a_strided_gradient_arrives():
    inputs = scan_inputs()
    out = slice_scan(**inputs, directions=DIRECTIONS)
    weight = torch.randn(12, 4, 5, 3, 2).permute(4, 3, 2, 1, 0)
    names = list(inputs)
    strided = torch.autograd.grad(out, list(inputs.values()), weight, retain_graph=True)
    dense = torch.autograd.grad(out, list(inputs.values()), weight.contiguous())
    assert all(torch.equal(a, b) for a, b in zip(strided, dense)), names


def test_one_direction_is_another_mirrored():
    inputs = scan_inputs(branches=1, without=("D",))
    right = slice_scan(**inputs, directions=("x",))
    image = ("u", "delta", "B", "C", "z")
    mirrored = {name: x.flip(2) if name in image else x for name, x in inputs.items()}
    assert torch.equal(slice_scan(**mirrored, directions=("-x",)).flip(2), right)
    turned = {name: x.transpose(1, 2) if name in image else x for name, x in inputs.items()}
    assert torch.equal(slice_scan(**turned, directions=("y",)).transpose(1, 2), right)
    assert not torch.allclose(slice_scan(**inputs, directions=("-x",)), right)


def test_rows_do_not_know_their_neighbours():
    inputs = scan_inputs(batch=2, height=4, width=20, branches=1)
    image = ("u", "delta", "B", "C", "z")
    alone = {name: x[:1, 1:2] if name in image else x for name, x in inputs.items()}
    together = slice_scan(**inputs, delta_softplus=True, directions=("x",))
    assert torch.equal(slice_scan(**alone, delta_softplus=True, directions=("x",)), together[:1, 1:2])
    with torch.no_grad():
        inputs["u"][1], inputs["u"][0, 2:] = float("nan"), float("inf")
    spoiled = slice_scan(**inputs, delta_softplus=True, directions=("x",))
    assert torch.equal(spoiled[0, :2], together[0, :2])
    assert spoiled[1].isnan().all()


@pytest.mark.parametrize("height", [5, 7])
def test_branches_do_not_know_one_another(height):
    """To the last bit: what a long row of one branch left in the cache once chose how a short one was rounded."""
    torch.set_num_threads(1)
    x = scan_inputs(batch=1, height=height, width=16, branches=2, channels=24, without=("delta_bias",))
    x = {name: value.detach() for name, value in x.items()}
    x["delta"] = x["delta"].abs()
    found = []
    for first in (1.0, 1000.0):
        delta = x["delta"].clone()
        delta[:, :, :, 0] *= first
        out = slice_scan(**(x | {"delta": delta}), directions=("x", "y"))
        found.append(out[:, :, :, 1])
    assert torch.equal(*found)


@pytest.mark.parametrize("delta", [1e4, 1e30, -1e4, -1e30, 88.0, -104.0, 0.0])
def test_extreme_steps_stay_finite(delta):
    """A huge step forgets all, a step of zero keeps all; neither makes NaN."""
    inputs = scan_inputs(branches=2, width=40, without=("delta_bias",))
    inputs["delta"] = torch.full_like(inputs["delta"], delta).requires_grad_()
    inputs["u"] = (inputs["u"].detach() * min(1.0, 1 / max(abs(delta), 1))).requires_grad_()
    out, grads, _ = run(slice_scan, inputs, delta_softplus=True, directions=("x", "-y"))
    assert out[0].isfinite().all()
    assert grads["u"].isfinite().all() and grads["z"].isfinite().all() and grads["C"].isfinite().all()
    exact = {name: x.detach().double() for name, x in inputs.items()}
    with use_backend("reference"):
        assert rms_ratio(out[0], slice_scan(**exact, delta_softplus=True, directions=("x", "-y"))) < 1e-5


@pytest.mark.parametrize("least", [-20.0, 9.0])
def test_every_gradient_of_steps_of_any_size(least):
    """Some tiles' exponents are beyond what the quick exponential takes, and in the second case all."""
    inputs = scan_inputs(branches=2, width=40, channels=24, without=("delta_bias",))
    steps = torch.linspace(least, 30, inputs["delta"].numel()).view(inputs["delta"].shape)
    inputs["delta"] = steps.requires_grad_()
    assert_matches_reference(slice_scan, inputs, delta_softplus=True, directions=("x", "-y"))


def test_growing_states_follow_the_reference():
    inputs = scan_inputs(width=9)
    inputs["A"] = (inputs["A"].detach().abs() / 4).requires_grad_()
    assert_matches_reference(slice_scan, inputs, directions=DIRECTIONS, delta_softplus=True)


def test_nan_is_not_swallowed():
    inputs = scan_inputs(branches=1)
    with torch.no_grad():
        inputs["delta"][0, 0, 2] = float("nan")
    out = slice_scan(**inputs, delta_softplus=True, directions=("x",))
    assert out[0, 0, 2:].isnan().all() and out[0, 0, :2].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3, 4), (1, 0, 4), (1, 3, 0)])
def test_nothing_in_nothing_out(shape):
    inputs = scan_inputs(*shape)
    out, grads, _ = run(slice_scan, inputs, directions=DIRECTIONS)
    assert out[0].shape == (*shape, 4, 12)
    assert all(not grads[name].any() for name in ("A", "D", "delta_bias"))


def test_misfits_are_named():
    inputs = scan_inputs()
    with pytest.raises(ValueError, match="directions"):
        slice_scan(**inputs, directions=("x", "y"))
    with pytest.raises(ValueError, match="directions"):
        slice_scan(**inputs, directions=("x", "y", "z", "-z"))
    with pytest.raises(ValueError, match="C has shape"):
        slice_scan(**{**inputs, "C": inputs["C"][..., :3]}, directions=DIRECTIONS)
    with pytest.raises(ValueError, match="D has shape"):
        slice_scan(**{**inputs, "D": inputs["D"][:3]}, directions=DIRECTIONS)
    with pytest.raises(TypeError, match="A is torch.complex64"):
        slice_scan(**{**inputs, "A": inputs["A"].to(torch.complex64)}, directions=DIRECTIONS)
