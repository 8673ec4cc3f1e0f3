"""The network against its plain formulation, and a photograph of twelve megapixels."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import pytest
import torch

from xyscannet.analysis.eager import eager_forward
from xyscannet.models import XYScanNet, XYScanNetConfig, zoo


def seconds(network: Callable, image: torch.Tensor) -> float:
    start = time.perf_counter()
    network(image)
    return time.perf_counter() - start


@pytest.mark.slow  # the plain formulation takes several seconds a forward
def test_the_network_is_four_times_faster_than_its_plain_formulation_with_a_loop():
    torch.manual_seed(0)
    network, image = zoo.build("xyscannet-b").eval(), torch.rand(1, 3, 256, 256)
    torch.nn.init.normal_(network.output.weight, std=0.05)
    fast_times, plain_times = [], []
    with torch.inference_mode():
        fast, plain = network(image), eager_forward(network, image)
        for _ in range(3):
            fast_times.append(seconds(network, image))
            plain_times.append(seconds(partial(eager_forward, network), image))
    assert (fast - plain).abs().max() < 1e-4 * (plain - image).abs().max()
    assert median(plain_times) >= 4 * median(fast_times)


@pytest.mark.slow  # twelve megapixels
def test_twelve_megapixels_are_restored_whole():
    network = XYScanNet(XYScanNetConfig(width=4, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))).eval()
    torch.nn.init.normal_(network.output.weight, std=0.2)
    image = torch.rand(1, 3, 3072, 4096)
    with torch.inference_mode():
        out = network(image)
    assert out.shape == image.shape and torch.isfinite(out).all() and not torch.equal(out, image)
