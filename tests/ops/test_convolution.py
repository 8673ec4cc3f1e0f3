"""torch's convolutions: what they compute, and that oneDNN computes it with one thread and for one image too."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.ops.compare import rms_ratio
from xyscannet.ops.convolution import linear_channels_last, pointwise_conv, spatial_conv


@pytest.fixture(params=[1, 2])
def threads(request, two_threads):
    torch.set_num_threads(request.param)
    return request.param


def channels_last(*size):
    batch, channels, height, width = size
    return torch.randn(batch, height, width, channels).permute(0, 3, 1, 2)


def maps():
    yield channels_last(1, 12, 20, 7)
    yield channels_last(2, 12, 9, 5)
    yield channels_last(1, 12, 3, 40)  # fewer rows than torch asks for
    yield channels_last(1, 24, 20, 7)[:, :12]
    yield channels_last(2, 12, 24, 9)[:, :, 2:-2, 1:-1]
    yield torch.randn(2, 12, 18, 5)
    yield channels_last(0, 12, 20, 7)


@pytest.mark.parametrize("biased", [False, True])
def test_the_convolution_and_its_gradients(threads, biased):
    for x in maps():
        weight, bias = torch.randn(10, 12, 1, 1), torch.randn(10) if biased else None
        given = [x.detach().requires_grad_(), weight.requires_grad_()]
        exact = [each.detach().double().requires_grad_() for each in given]
        found = pointwise_conv(*given, bias)
        expected = F.conv2d(*exact, None if bias is None else bias.double())
        assert found.shape == expected.shape and found.dtype == torch.float32
        assert not found.numel() or rms_ratio(found, expected) < 1e-6
        grads = torch.autograd.grad(found.square().sum(), given)
        for grad, other in zip(grads, torch.autograd.grad(expected.square().sum(), exact), strict=True):
            assert not grad.numel() or rms_ratio(grad, other) < 1e-5


def test_the_product_over_the_last_dimension(threads):
    for shape in [
        (1, 20, 7, 2, 12),
        (2, 9, 5, 1, 12),
        (1, 1, 40, 1, 12),
        (3, 40, 12),
        (5, 12),
        (0, 9, 5, 1, 12),
    ]:
        x, weight = torch.randn(shape), torch.randn(10, 12)
        found = linear_channels_last(x, weight)
        torch.testing.assert_close(found, x @ weight.T, rtol=1e-5, atol=1e-5)
        assert found.is_contiguous()


def test_results_are_channels_last(threads):
    found = pointwise_conv(channels_last(1, 12, 20, 7), torch.randn(10, 12, 1, 1))
    assert found.is_contiguous(memory_format=torch.channels_last)


def onednn_calls(run) -> int:
    """How many convolutions of `run` oneDNN took; none went to torch's own."""
    from torch.profiler import profile

    with torch.inference_mode(), profile() as taken:
        run()
    calls = {event.key: event.count for event in taken.key_averages()}
    assert "aten::_slow_conv2d_forward" not in calls
    return calls.get("aten::mkldnn_convolution", 0)


WITH_ONEDNN = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")


@WITH_ONEDNN
def test_one_thread_runs_onednn_too():
    torch.set_num_threads(1)
    x, weight = channels_last(1, 24, 64, 64), torch.randn(48, 24, 1, 1)
    assert onednn_calls(lambda: pointwise_conv(x, weight)) == 1
    pixels = x.permute(0, 2, 3, 1)[..., None, :]
    assert onednn_calls(lambda: linear_channels_last(pixels, weight[..., 0, 0])) == 1


@WITH_ONEDNN
def test_one_small_image_runs_onednn_too(threads):
    """As it does in a batch: the result should not depend on the batch by how the two round."""
    x = channels_last(1, 12, 18, 7)
    assert onednn_calls(lambda: pointwise_conv(x, torch.randn(10, 12, 1, 1))) == 1
    weight, bias = torch.randn(10, 12, 3, 3), torch.randn(10)
    assert onednn_calls(lambda: spatial_conv(x, weight, bias)) == 1
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    assert rms_ratio(spatial_conv(x, weight, bias), expected) < 1e-6
