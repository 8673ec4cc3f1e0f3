"""The eager formulation computes what the network computes, with any scan of mamba-ssm's signature."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from xyscannet.analysis.eager import eager_forward, loop_scan
from xyscannet.errors import ConfigError
from xyscannet.models import XYScanNetConfig, zoo
from xyscannet.ops import selective_scan_fn

TINY = XYScanNetConfig(width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), d_state=4)


def trained(**variant):
    torch.manual_seed(0)
    network = zoo.build(dataclasses.replace(TINY, **variant))
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network.double().to(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("scan", [loop_scan, selective_scan_fn])
@pytest.mark.parametrize("scanners", [("intra", "inter"), ("ss2d", "ss2d")])
def test_output_and_gradients_are_the_networks(scan, scanners):
    network = trained(scanners=scanners)
    image = torch.rand(
        2, 3, 9, 6, dtype=torch.float64
    )  # padded to 12 x 8: the loop takes each step by itself
    expected, found = network(image), eager_forward(network, image, scan)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    weights = torch.randn_like(expected)
    gradients = [
        torch.autograd.grad((out * weights).sum(), list(network.parameters())) for out in (found, expected)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        assert (mine - theirs).norm() <= 1e-6 * theirs.norm()  # A_log is taken in float32


def test_the_scan_that_is_given_is_the_one_that_runs():
    calls = []

    def scan(u, *arguments, **options):
        calls.append(u.shape)
        return loop_scan(u, *arguments, **options)

    network = trained()
    eager_forward(network, torch.rand(1, 3, 16, 24, dtype=torch.float64), scan)
    assert len(calls) == 3 * 4  # three blocks, two branches in each of two modules
    assert torch.Size((16, 8, 24)) in calls and torch.Size((24, 8, 16)) in calls


def test_grouped_b_and_c_of_the_loop():
    torch.manual_seed(1)
    u, delta, z = torch.randn(3, 2, 6, 11, dtype=torch.float64)
    A, D, bias = -torch.rand(6, 3).double(), torch.rand(6).double(), torch.rand(6).double()
    for shape in ((2, 3, 11), (2, 2, 3, 11)):
        B, C = torch.randn(2, *shape, dtype=torch.float64)
        arguments = (u, delta, A, B, C, D, z, bias, True)
        torch.testing.assert_close(loop_scan(*arguments), selective_scan_fn(*arguments))


def test_the_loop_is_float32_inside_under_autocast():
    torch.manual_seed(2)
    u, delta = torch.randn(2, 1, 4, 300)
    A, (B, C) = -torch.rand(4, 3), torch.randn(2, 1, 3, 300)
    expected = loop_scan(u, delta, A, B, C, delta_softplus=True)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            loop_scan(u, delta, A, B, C, delta_softplus=True), expected, rtol=0, atol=0
        )


@pytest.mark.parametrize("variant", [{"bidirectional": True}, {"fusion": "aff"}])
def test_other_networks_are_refused(variant):
    with pytest.raises(ConfigError, match="uni-directional networks with KLFF"):
        eager_forward(trained(**variant), torch.rand(1, 3, 8, 8, dtype=torch.float64))
