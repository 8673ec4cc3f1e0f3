"""Folding linear maps changes nothing but the speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from xyscannet import checkpoint
from xyscannet.errors import ConfigError
from xyscannet.models import XYScanNetConfig, zoo
from xyscannet.models.fuse import FusedIntraScanner, Sum

TINY = XYScanNetConfig(width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))


def trained(config: XYScanNetConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    network = zoo.build(config).eval()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"bidirectional": True},
        {"fusion": "aff"},
        {"fusion": "none"},
        {"gate": "mean", "scanners": ("intra", "intra")},
        {"scanners": ("ss2d", "inter")},
    ],
)
def test_the_output_is_the_same_to_1e_5(variant):
    network = trained(dataclasses.replace(TINY, **variant))
    fused = network.fuse()
    image = torch.rand(2, 3, 37, 50)
    with torch.inference_mode():
        residual = network(image) - image
        assert (fused(image) - image - residual).abs().max() < 1e-5 * residual.abs().max()


def test_what_is_foldable_is_folded_and_the_network_itself_is_left_as_it_was():
    network = trained(TINY)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused = network.fuse()
    assert sum(isinstance(module, FusedIntraScanner) for module in fused.modules()) == 3
    assert isinstance(fused.reduce_level1, Sum) and isinstance(fused.reduce_level2, Sum)
    assert not any(parameter.requires_grad for parameter in fused.parameters()) and not fused.training
    after = network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(parameter.requires_grad for parameter in network.parameters())


def tied(network: torch.nn.Module) -> None:
    """One mixer for two scanners, of which one can be folded."""
    network.decoder_level1[0].vssm2.scanner.mamba = network.decoder_level1[0].vssm1.scanner.mamba


def hooked(name: str) -> Callable[[torch.nn.Module], None]:
    return lambda network: network.get_submodule(name).register_forward_hook(
        lambda module, inputs, output: 0.5 * output + 0.3
    )


@pytest.mark.parametrize(
    "change",
    [
        tied,
        *map(hooked, ("decoder_level1.0.vssm1.scanner.mamba", "fusion_level1", "up2_1", "reduce_level2")),
    ],
)
def test_what_does_more_than_its_weights_say_is_not_folded(change):
    network = trained(TINY)
    image = torch.rand(1, 3, 12, 16)
    with torch.inference_mode():
        before = network(image)
        change(network)
        changed = network(image)
        assert not torch.equal(changed, before)
        torch.testing.assert_close(network.fuse()(image), changed, rtol=0, atol=1e-5)


def test_an_up_sampling_that_was_replaced_is_not_folded():
    network = trained(TINY)
    network.up2_1 = torch.nn.Sequential(network.up2_1)
    image = torch.rand(1, 3, 12, 16)
    with torch.inference_mode():
        torch.testing.assert_close(network.fuse()(image), network(image), rtol=0, atol=1e-5)


def test_fusing_twice_changes_nothing_more():
    fused = trained(TINY).fuse()
    image = torch.rand(1, 3, 12, 16)
    with torch.inference_mode():
        assert torch.equal(fused.fuse()(image), fused(image))


def test_the_embedded_weights_keep_their_result():
    network = checkpoint.load_model("xyscannet-s")
    image = torch.rand(1, 3, 64, 48)
    with torch.inference_mode():
        assert (network.fuse()(image) - network(image)).abs().max() < 1e-5


def test_a_fused_network_is_not_saved(tmp_path):
    fused = trained(TINY).fuse()
    with pytest.raises(ConfigError, match="reduce_level2.weight"):
        checkpoint.save(tmp_path / "fused.safetensors", fused.state_dict(), fused.config)
    assert not list(tmp_path.iterdir())
