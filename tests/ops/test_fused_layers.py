"""Fused layer normalisation and silu gates against their definitions in float64, outputs and every gradient."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.ops.compare import rms_ratio
from xyscannet.ops import channels_last, use_backend
from xyscannet.ops.gate import silu_gate, silu_gate_reference, silu_mul
from xyscannet.ops.norm import layer_norm, layer_norm_reference

LIMIT = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 5e-3}
DTYPES = [torch.float32, torch.bfloat16]


def maps(dtype, channels, size=(3, 7, 9), layout="channels-last"):
    """A leaf of (B, C, H, W) in one of several memory layouts."""
    batch, height, width = size
    x = torch.randn(batch, channels, height, width).to(dtype)
    if layout == "channels-last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "half":
        x = torch.randn(batch, height, width, 2 * channels).to(dtype)[..., channels:].permute(0, 3, 1, 2)
    return x.requires_grad_()


def compare(fused, reference, leaves, dtype):
    """Within the limit, or as near as torch comes in float32 (the gradient of two channels is nearly nought)."""
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    single = [leaf.detach().float().requires_grad_() for leaf in leaves]
    expected, plain, found = reference(*exact), reference(*single), fused(*leaves)
    upper = torch.randn_like(expected)
    assert found.dtype == leaves[0].dtype
    assert rms_ratio(found, expected) <= LIMIT[dtype]
    for found_gradient, plain_gradient, exact_gradient in zip(
        torch.autograd.grad(found, leaves, upper.to(dtype)),
        torch.autograd.grad(plain, single, upper.float()),
        torch.autograd.grad(expected, exact, upper),
        strict=True,
    ):
        limit = max(LIMIT[dtype], rms_ratio(plain_gradient, exact_gradient))
        assert rms_ratio(found_gradient, exact_gradient) <= limit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [2, 5, 16, 24, 40, 96])
@pytest.mark.parametrize("layout", ["channels-last", "channels-first", "half"])
def test_layer_norm(dtype, channels, layout):
    torch.manual_seed(channels)
    weight, bias = torch.randn(channels).requires_grad_(), torch.randn(channels).requires_grad_()
    compare(
        lambda x, w, b: layer_norm(x, w, b, 1e-5),
        lambda x, w, b: layer_norm_reference(x, w, b, 1e-5),
        [maps(dtype, channels, layout=layout), weight, bias],
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 5, 16, 24, 40])
@pytest.mark.parametrize("layout", ["channels-last", "channels-first"])
def test_silu_gate_of_the_halves(dtype, channels, layout):
    torch.manual_seed(channels)
    compare(
        silu_gate,
        lambda x: silu_gate_reference(*x.chunk(2, dim=1)),
        [maps(dtype, 2 * channels, layout=layout)],
        dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels-last", "channels-first", "half"])
def test_silu_mul(dtype, layout):
    torch.manual_seed(0)
    compare(silu_mul, silu_gate_reference, [maps(dtype, 24, layout=layout), maps(dtype, 24)], dtype)


def test_types_that_no_kernel_reads_take_the_definition():
    torch.manual_seed(0)
    assert not channels_last.kernels_read(torch.zeros(1, dtype=torch.float16))
    weight, bias = torch.randn(24).requires_grad_(), torch.randn(24).requires_grad_()
    half = torch.float16
    leaves = [maps(half, 24), weight, bias]
    compare(layer_norm, partial(layer_norm_reference, eps=1e-5), leaves, half)
    compare(silu_gate, lambda x: silu_gate_reference(*x.chunk(2, dim=1)), [maps(half, 48)], half)
    for kinds in ((torch.float64, torch.float32), (torch.float32, torch.float64)):
        leaves = [maps(dtype, 24) for dtype in kinds]
        found, expected = (each(*leaves).double() for each in (silu_mul, silu_gate_reference))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        for one, other in zip(*(torch.autograd.grad(y.sum(), leaves) for y in (found, expected))):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_shapes_that_do_not_fit_are_refused(backend):
    x, odd, few, many = torch.ones(1, 6, 2, 2), torch.ones(1, 5, 2, 2), torch.ones(4), torch.ones(6)
    with use_backend(backend):
        for each in ((x, few, few), (x, many, few), (x, few, many), (x[0], many, many)):
            with pytest.raises(ValueError, match="expected"):
                layer_norm(*each)
        for function, given in ((silu_gate, [odd]), (silu_mul, [x, odd]), (silu_mul, [odd, x])):
            with pytest.raises(ValueError, match="expected|cannot be gated"):
                function(*given)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_reference_backend_takes_the_definition(dtype):
    torch.manual_seed(0)
    x, both = maps(dtype, 24), maps(dtype, 48, layout="half")
    weight, bias = torch.randn(24), torch.randn(24)
    with use_backend("reference"):
        found = layer_norm(x, weight, bias), silu_gate(both), silu_mul(x, both[:, :24])
        compare(silu_mul, silu_gate_reference, [x, maps(dtype, 24)], dtype)
    assert torch.equal(found[0], layer_norm_reference(x, weight.to(dtype), bias.to(dtype), 1e-5))
    assert torch.equal(found[1], silu_gate_reference(*both.chunk(2, dim=1)))
    assert torch.equal(found[2], silu_gate_reference(x, both[:, :24]))


def test_the_definition_has_every_derivative():
    torch.manual_seed(0)
    x, weight = maps(torch.float64, 4, (1, 2, 2)), torch.ones(2, dtype=torch.float64)

    def layers(x):
        x = layer_norm(silu_gate(x), weight, weight)
        return silu_mul(x, x)

    with use_backend("reference"):
        assert torch.autograd.gradgradcheck(layers, (x,))
        along = torch.func.jvp(layers, (x.detach(),), (torch.ones_like(x),))[1]
        jacobian = torch.func.jacrev(layers)(x.detach())
    torch.testing.assert_close(along, jacobian.sum((4, 5, 6, 7)))


def _layers(x, weight, bias):
    """Both operators under a name each: (B, 2C, H, W) -> (B, C, H, W)."""
    return silu_mul(layer_norm(silu_gate(x), weight, bias), x.chunk(2, dim=1)[1])


def test_compiles_in_one_graph():
    torch.manual_seed(0)
    leaves = [maps(torch.float32, 24), torch.randn(12).requires_grad_(), torch.randn(12).requires_grad_()]
    whole = torch.compile(_layers, fullgraph=True, backend="aot_eager")
    found, expected = whole(*leaves), _layers(*leaves)
    upper = torch.randn_like(expected)
    assert torch.equal(found, expected)
    gradients = (torch.autograd.grad(y, leaves, upper) for y in (found, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_autocast():
    torch.manual_seed(0)
    x, weight, bias = (
        maps(torch.bfloat16, 24),
        torch.randn(12).requires_grad_(),
        torch.randn(12).requires_grad_(),
    )
    expected = _layers(x, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        found = _layers(x, weight, bias)
    assert found.dtype == torch.bfloat16 and torch.equal(found, expected)
    gradients = torch.autograd.grad(found.float().square().sum(), [x, weight, bias])
    assert [g.dtype for g in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    assert all(torch.isfinite(g).all() for g in gradients)


def test_one_pixel_and_empty_batches():
    for size in ((1, 1, 1), (0, 4, 4)):
        x = maps(torch.float32, 6, size)
        assert layer_norm(x, torch.ones(6), torch.zeros(6)).shape == x.shape
        assert silu_gate(x).shape == (size[0], 3, *size[1:])


def test_gradients_in_double_precision():
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64).requires_grad_()
    gate = torch.randn(2, 6, 3, 4, dtype=torch.float64).requires_grad_()
    weight, bias = (torch.randn(6, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(layer_norm, (x, weight, bias))
    assert torch.autograd.gradcheck(silu_gate, (x,))
    assert torch.autograd.gradcheck(silu_mul, (gate, x))


def test_parameter_gradients_do_not_depend_on_threads():
    x, weight, bias = maps(torch.float32, 24, (2, 61, 67)), torch.rand(24).requires_grad_(), torch.zeros(24)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(torch.autograd.grad(layer_norm(x, weight, bias).square().sum(), weight)[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_large_values_do_not_overflow():
    x = torch.full((1, 8, 2, 2), 3e4).contiguous(memory_format=torch.channels_last)
    x[:, ::2] *= -1
    assert torch.isfinite(silu_gate(x)).all()
    torch.testing.assert_close(layer_norm(x, torch.ones(8), torch.zeros(8)), x / 3e4, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("operator", ["silu_gate", "silu_mul", "layer_norm"])
def test_registration_is_complete(operator, backend):
    x = torch.randn(2, 6, 3, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.ones(6).requires_grad_()
    arguments = {
        "silu_gate": (x,),
        "silu_mul": (x, x.detach().clone().requires_grad_()),
        "layer_norm": (x, weight, weight.detach().clone().requires_grad_(), 1e-5),
    }[operator]
    torch.library.opcheck(getattr(torch.ops.xyscannet, operator).default, (*arguments, backend))
