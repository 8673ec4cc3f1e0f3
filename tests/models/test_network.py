"""The U-Net: the paper's counts, any size, one answer an image, a readable identity at the start."""

from __future__ import annotations

import pytest
import torch

from xyscannet.models import XYScanNet, XYScanNetConfig, zoo

TINY = XYScanNetConfig(width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))


@pytest.fixture(scope="module")
def network() -> XYScanNet:
    torch.manual_seed(0)
    network = XYScanNet(TINY).eval()
    torch.nn.init.normal_(network.output.weight, std=0.2)
    return network


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("xyscannet-b", 7_301_952), ("xyscannet", 16_155_072), ("xyscannet-plus", 63_514_368)],
)
def test_parameter_counts_of_the_paper_and_the_released_networks(name, parameters):
    assert zoo.info(name).parameters == parameters


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 3), (7, 13), (65, 65)])
def test_any_size_is_restored(network, size):
    image = torch.rand(1, 3, *size)
    with torch.inference_mode():
        out = network(image)
    assert out.shape == image.shape
    assert torch.isfinite(out).all()
    assert not torch.equal(out, image)


@pytest.mark.parametrize("gradients", [False, True])
def test_an_empty_batch_is_one_too(network, gradients):
    with torch.set_grad_enabled(gradients):
        assert network(torch.rand(0, 3, 8, 12)).shape == (0, 3, 8, 12)


def test_an_image_that_needs_no_padding_is_not_changed_by_the_padding_code(network):
    image = torch.rand(1, 3, 16, 24)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), image + network.residual(image), rtol=0, atol=0)


def test_an_untrained_network_returns_its_input():
    image = torch.rand(1, 3, 12, 20)
    with torch.inference_mode():
        torch.testing.assert_close(XYScanNet(TINY)(image), image, rtol=0, atol=0)


@pytest.mark.parametrize("gate", ["element", "mean"])
def test_the_result_does_not_depend_on_batch_neighbours(gate):
    torch.manual_seed(1)
    network = XYScanNet(
        XYScanNetConfig(width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), gate=gate)
    ).eval()
    torch.nn.init.normal_(network.output.weight, std=0.2)
    image, other = torch.rand(1, 3, 33, 21), torch.rand(2, 3, 33, 21) * 0.2
    with torch.inference_mode():
        alone = network(image)
        together = network(torch.cat([other, image]))[2:]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scanners", [("intra", "inter"), ("inter", "inter")])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("fusion", ["klff", "aff", "none"])
def test_every_variant_trains_all_of_its_parameters(scanners, bidirectional, fusion):
    torch.manual_seed(2)
    config = XYScanNetConfig(
        width=8,
        encoder_blocks=(1, 0, 1),
        decoder_blocks=(1, 0, 1),
        scanners=scanners,
        bidirectional=bidirectional,
        fusion=fusion,
    )
    network = XYScanNet(config)
    torch.nn.init.normal_(network.output.weight, std=0.2)
    network(torch.rand(1, 3, 18, 21)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_features_stay_channels_last(network):
    seen = []

    def look(module, inputs, output):
        for each in output if isinstance(output, tuple) else (output,):
            _, channels, height, width = each.shape
            if channels > 1 and height * width > 1:
                seen.append(each.is_contiguous(memory_format=torch.channels_last))

    hooks = [m.register_forward_hook(look) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.inference_mode():
        network(torch.rand(1, 3, 24, 32))
    for hook in hooks:
        hook.remove()
    assert len(seen) > 20 and all(seen)


def test_bf16_autocast_stays_close(network):
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        exact = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            fast = network(image)
    error = (fast.float() - exact).square().mean()
    change = (exact - image).square().mean()
    assert 0 < error < 1e-3 * change


def test_double_precision_agrees_with_single(network):
    image = torch.rand(1, 3, 21, 30)
    with torch.inference_mode():
        single = network(image)
        double = XYScanNet(TINY).double().eval()
        double.load_state_dict(network.state_dict())
        exact = double(image.double())
    assert (single - exact).abs().max() < 1e-5 * (exact - image).abs().max()
