"""The means of rows and columns against their definition in float64: results and the gradient."""

from __future__ import annotations

import pytest
import torch

from tests.ops.compare import BOUND, assert_matches_reference, rms_ratio, run
from xyscannet.ops.line_means import line_means

LAYOUTS = {
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "channels-first": lambda x: x.contiguous(),
    "half": lambda x: torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)[:, x.shape[1] :],
    "window": lambda x: torch.cat([x, x], 3).contiguous(memory_format=torch.channels_last)[..., x.shape[3] :],
}


def written_out(x):
    half = x.shape[1] // 2
    down = torch.stack([row.sum(-1) / x.shape[3] for row in x[:, :half].unbind(2)], 1)
    across = torch.stack([column.sum(-1) / x.shape[2] for column in x[:, half:].unbind(3)], 1)
    return down, across


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(3, 24, 37, 9), (1, 2, 1, 1), (2, 36, 5, 63), (1, 100, 129, 2)])
def test_every_line(dtype, layout, size):
    x = LAYOUTS[layout](torch.randn(size).to(dtype)).requires_grad_()
    found, grads, weights = run(line_means, {"x": x})
    exact = {"x": x.detach().double().requires_grad_()}
    expected, expected_grads, _ = run(written_out, exact, [w.double() for w in weights])
    for result, right in zip(found, expected, strict=True):
        assert result.dtype == dtype and rms_ratio(result, right) <= BOUND[dtype]
    assert rms_ratio(grads["x"], expected_grads["x"]) <= BOUND[dtype]


def test_many_rows_do_not_lose_digits():
    x = (10 + torch.rand(1, 16, 3000, 8)).contiguous(memory_format=torch.channels_last)
    for result, right in zip(line_means(x), written_out(x.double()), strict=True):
        assert rms_ratio(result, right) < 1e-6


def test_an_image_does_not_depend_on_the_others():
    x = torch.randn(3, 24, 20, 31).contiguous(memory_format=torch.channels_last)
    for alone, among in zip(line_means(x[1:2]), line_means(x), strict=True):
        assert torch.equal(alone[0], among[1])


def test_compiled_whole():
    compiled = torch.compile(line_means, fullgraph=True, backend="aot_eager")
    assert_matches_reference(lambda x: compiled(x), {"x": torch.randn(2, 12, 5, 6).requires_grad_()})


@pytest.mark.parametrize("size", [(1, 3, 4, 4), (1, 2, 0, 4), (1, 2, 4, 0)])
def test_what_has_no_means_is_refused(size):
    with pytest.raises(ValueError, match="take means of"):
        line_means(torch.zeros(size))
