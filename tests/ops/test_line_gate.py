"""The gates of rows and columns against a product written out pixel by pixel: outputs and every gradient."""

from __future__ import annotations

import pytest
import torch

from tests.ops.compare import BOUND, assert_matches_reference, rms_ratio, run
from xyscannet.ops.line_gate import line_gate


def line_inputs(size=(3, 24, 7, 9), dtype=torch.float32, layout="channels-last"):
    """Leaves x (B, C, H, W), down (B, H, C/2), across (B, W, C/2)."""
    batch, channels, height, width = size
    x = torch.randn(size).to(dtype)
    if layout == "channels-last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "half":
        x = torch.randn(batch, height, width, 2 * channels).to(dtype)[..., channels:].permute(0, 3, 1, 2)
    down, across = (2 * torch.randn(batch, length, channels // 2).to(dtype) for length in (height, width))
    return {name: t.requires_grad_() for name, t in (("x", x), ("down", down), ("across", across))}


def written_out(x, down, across):
    batch, channels, height, width = x.shape
    half = channels // 2
    pixels = [
        torch.cat(
            [x[:, :half, i, j] * torch.sigmoid(down[:, i]), x[:, half:, i, j] * torch.sigmoid(across[:, j])],
            1,
        )
        for i in range(height)
        for j in range(width)
    ]
    return torch.stack(pixels, dim=2).reshape(batch, channels, height, width)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["channels-last", "channels-first", "half"])
@pytest.mark.parametrize("size", [(3, 24, 7, 9), (1, 2, 1, 1), (2, 72, 3, 2)])
def test_every_pixel(dtype, layout, size):
    inputs = line_inputs(size, dtype, layout)
    found, grads, weights = run(line_gate, inputs)
    exact = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    expected, expected_grads, _ = run(written_out, exact, [w.double() for w in weights])
    assert found[0].dtype == dtype and rms_ratio(found[0], expected[0]) <= BOUND[dtype]
    for name in inputs:
        assert grads[name].dtype == dtype and rms_ratio(grads[name], expected_grads[name]) <= BOUND[dtype]


def test_compiled_whole():
    compiled = torch.compile(line_gate, fullgraph=True, backend="aot_eager")
    assert_matches_reference(lambda **given: compiled(**given), line_inputs((2, 12, 5, 6)))


def test_mixed_types_keep_the_maps():
    inputs = line_inputs((2, 12, 5, 6), torch.bfloat16)
    inputs["down"] = inputs["down"].detach().float()
    assert line_gate(**inputs).dtype == torch.bfloat16


def test_bad_shapes_are_refused():
    x, down, across = line_inputs((2, 12, 5, 6)).values()
    for bad in ((x, across, down), (x[:, :11], down, across), (x[:1], down, across)):
        with pytest.raises(ValueError, match="cannot be gated"):
            line_gate(*bad)
