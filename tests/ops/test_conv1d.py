from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.ops.compare import DIRECTIONS, assert_matches_reference, conv_inputs, run
from xyscannet.ops import causal_conv1d_fn, slice_conv1d, use_backend


@pytest.mark.parametrize("length", [1, 2, 3, 17, 63, 129])
@pytest.mark.parametrize("activation", ["silu", None])
def test_every_direction_and_gradient_at_odd_lengths(length, activation):
    options = {"activation": activation, "directions": DIRECTIONS}
    assert_matches_reference(slice_conv1d, conv_inputs(width=length, channels=5), **options)
    assert_matches_reference(slice_conv1d, conv_inputs(batch=1, height=length, channels=36), **options)


@pytest.mark.parametrize("taps", [1, 2, 4, 7, 20])
def test_every_width_of_the_kernel(taps):
    assert_matches_reference(slice_conv1d, conv_inputs(taps=taps, width=37), directions=DIRECTIONS)
    assert_matches_reference(
        slice_conv1d, conv_inputs(taps=taps, channels=200, bias=False), directions=DIRECTIONS
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_keep_float32_weights(dtype):
    bound = {torch.float16: 1e-2}.get(dtype)
    assert_matches_reference(
        slice_conv1d, conv_inputs(dtype=dtype, width=33), bound=bound, directions=DIRECTIONS
    )


def test_a_step_does_not_see_the_future():
    inputs = conv_inputs(branches=2, width=8, height=1)
    x = inputs["x"].detach().clone()
    before = slice_conv1d(x, inputs["weight"], inputs["bias"], directions=("x", "-x"))
    x[:, :, 5] += 1
    after = slice_conv1d(x, inputs["weight"], inputs["bias"], directions=("x", "-x"))
    assert torch.equal(after[:, :, :5, 0], before[:, :, :5, 0]) and torch.equal(
        after[:, :, 6:, 1], before[:, :, 6:, 1]
    )
    assert not torch.allclose(after[:, :, 5:, 0], before[:, :, 5:, 0])


@pytest.mark.parametrize("activation", [None, "silu", "swish"])
@pytest.mark.parametrize("length", [1, 3, 35])
def test_the_public_form(activation, length):
    inputs = {"x": torch.randn(3, 20, length), "weight": torch.randn(20, 4), "bias": torch.randn(20)}
    inputs = {name: x.requires_grad_() for name, x in inputs.items()}
    out = causal_conv1d_fn(**inputs, activation=activation)
    padded = torch.nn.functional.pad(inputs["x"], (3, 0))
    expected = torch.nn.functional.conv1d(padded, inputs["weight"][:, None], inputs["bias"], groups=20)
    expected = expected if activation is None else torch.nn.functional.silu(expected)
    assert torch.allclose(out, expected, atol=1e-5) and out.is_contiguous()
    assert_matches_reference(causal_conv1d_fn, inputs, activation=activation)
    inputs["x"] = torch.randn(3, length, 20).transpose(1, 2).requires_grad_()
    assert_matches_reference(causal_conv1d_fn, inputs, activation=activation)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("size", [{"width": 0}, {"batch": 0}])
def test_nothing_in_nothing_out(backend, size):
    inputs = conv_inputs(**size)
    with use_backend(backend):
        out, grads, _ = run(slice_conv1d, inputs, directions=DIRECTIONS)
    assert out[0].shape == inputs["x"].shape and not grads["weight"].any()


def test_sequences_in_one_row_are_refused():
    x, weight = torch.randn(1, 4, 5), torch.randn(4, 3)
    assert causal_conv1d_fn(x, weight, activation="silu", seq_idx=None).shape == x.shape
    with pytest.raises(ValueError, match="seq_idx"):
        causal_conv1d_fn(x, weight, seq_idx=torch.zeros(1, 5, dtype=torch.int32))


def test_misfits_are_named():
    x, weight = torch.randn(1, 2, 2, 1, 4), torch.randn(4, 3)
    with pytest.raises(ValueError, match="activation 'relu'"):
        slice_conv1d(x, weight, activation="relu", directions=("x",))
    with pytest.raises(ValueError, match="weight has shape"):
        slice_conv1d(x, weight[:3], directions=("x",))
    with pytest.raises(ValueError, match="bias has shape"):
        slice_conv1d(x, weight, weight, directions=("x",))
    with pytest.raises(ValueError, match="directions"):
        slice_conv1d(x, weight)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool])
def test_only_real_numbers_are_convolved(dtype):
    with pytest.raises(TypeError, match="x is .*; real floating-point"):
        causal_conv1d_fn(torch.ones(1, 4, 3).to(dtype), torch.rand(4, 2))
    for function in (causal_conv1d_fn, slice_conv1d):
        with pytest.raises(TypeError, match="x is ndarray, not a tensor"):
            function(np.ones((1, 4, 3)), torch.rand(4, 2))


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_tensors_of_other_devices_are_refused(name):
    given = {"x": torch.rand(1, 4, 3), "weight": torch.rand(4, 2), "bias": torch.rand(4)}
    with pytest.raises(ValueError, match=f"{name} is on meta, x on cpu"):
        causal_conv1d_fn(**{**given, name: given[name].to("meta")})


def test_the_result_may_be_changed_in_place():
    x, weight = torch.rand(1, 4, 5, requires_grad=True), torch.rand(4, 3)
    causal_conv1d_fn(x, weight).mul_(2).sum().backward()
    changed, x.grad = x.grad, None
    (2 * causal_conv1d_fn(x, weight)).sum().backward()
    torch.testing.assert_close(changed, x.grad)
