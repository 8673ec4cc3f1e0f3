"""The depth-wise convolution, plain and gated, against sums written out in float64: outputs and every gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.ops.compare import BOUND, assert_matches_reference, rms_ratio, run
from xyscannet.ops.depthwise import depthwise_conv, depthwise_halves, depthwise_silu_gate


def joined_halves(x, weight):
    return torch.cat(depthwise_halves(x, weight), dim=1)


FUNCTIONS = [depthwise_conv, joined_halves, depthwise_silu_gate]


def conv_inputs(size=(3, 24, 7, 9), dtype=torch.float32, layout="channels-last"):
    """Leaves x (B, C, H, W) and weight (C, 1, 3, 3), the latter in float32 or wider."""
    batch, channels, height, width = size
    x = torch.randn(size).to(dtype)
    if layout == "channels-last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "half":
        x = torch.randn(batch, height, width, 2 * channels).to(dtype)[..., channels:].permute(0, 3, 1, 2)
    weight = torch.randn(channels, 1, 3, 3, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    return {"x": x.requires_grad_(), "weight": weight.requires_grad_()}


def written_out(function, x, weight):
    """The sum over the nine neighbours, and the gate."""
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1))
    y = sum(
        weight[:, 0, i, j, None, None] * padded[:, :, i : i + height, j : j + width]
        for i in range(3)
        for j in range(3)
    )
    if function is not depthwise_silu_gate:
        return y
    first, second = y.chunk(2, dim=1)
    return first * torch.sigmoid(first) * second


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["channels-last", "channels-first", "half"])
@pytest.mark.parametrize(
    "size", [(3, 24, 7, 9), (1, 12, 1, 1), (2, 72, 3, 2), (1, 2, 17, 1), (2, 40, 5, 41), (1, 6, 4, 70)]
)
def test_the_sum_over_neighbours(function, dtype, layout, size):
    inputs = conv_inputs(size, dtype, layout)
    found, grads, weights = run(function, inputs)
    exact = {name: x.detach().double().requires_grad_() for name, x in inputs.items()}
    expected, expected_grads, _ = run(
        lambda **given: written_out(function, **given), exact, [w.double() for w in weights]
    )
    assert found[0].dtype == dtype and rms_ratio(found[0], expected[0]) <= BOUND[dtype]
    for name in inputs:
        assert rms_ratio(grads[name], expected_grads[name]) <= BOUND[dtype]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_autocast(function):
    """A map in bfloat16 with weights in float32, as the network's convolutions leave it."""
    inputs = conv_inputs((2, 24, 6, 5), torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found, grads, _ = run(function, inputs)
    exact = written_out(function, inputs["x"].double(), inputs["weight"].double())
    assert found[0].dtype == torch.bfloat16 and rms_ratio(found[0], exact) < 2e-2
    assert grads["weight"].dtype == torch.float32 and grads["x"].dtype == torch.bfloat16


@pytest.mark.parametrize("function", FUNCTIONS)
def test_compiled_whole(function):
    inputs = conv_inputs((2, 12, 5, 6))
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert_matches_reference(lambda **given: compiled(**given), inputs)


def test_the_network_uses_them_with_its_own_weights():
    from xyscannet.models.layers import GDFN
    from xyscannet.models.vssm import VSSM

    ffn = GDFN(6, 1.5).double()
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    expected = ffn.project_out(written_out(depthwise_silu_gate, ffn.project_in(x), ffn.dwconv.weight))
    torch.testing.assert_close(ffn(x), expected)
    assert list(ffn.state_dict()) == ["project_in.weight", "dwconv.weight", "project_out.weight"]
    assert "dwconv.weight" in VSSM(8, "intra").state_dict()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_their_products_are_counted(function):
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    from xyscannet.analysis.complexity import operations

    counter = FlopCounterMode(display=False, custom_mapping=operations())
    with torch.no_grad(), FakeTensorMode(), counter:
        function(torch.empty(2, 8, 5, 7), torch.empty(8, 1, 3, 3))
    assert counter.get_total_flops() == 2 * 9 * 2 * 8 * 5 * 7


def test_empty_batches():
    for function in FUNCTIONS:
        inputs = conv_inputs((0, 4, 3, 3))
        _, grads, _ = run(function, inputs)
        assert not grads["weight"].any()


def test_bad_shapes_are_refused():
    x, weight = conv_inputs((1, 4, 3, 3)).values()
    with pytest.raises(ValueError, match="expected"):
        depthwise_conv(x, weight[:3])
    with pytest.raises(ValueError, match="halves"):
        depthwise_silu_gate(x[:, :3], weight[:3])
    with pytest.raises(ValueError, match="halves"):
        depthwise_halves(x[:, :3], weight[:3])


def test_halves_have_memory_of_their_own():
    """On the CPU: the convolution after them takes maps that are dense."""
    x, weight = conv_inputs((2, 12, 5, 6)).values()
    for half in depthwise_halves(x, weight):
        assert half.is_contiguous(memory_format=torch.channels_last)
