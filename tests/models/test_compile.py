"""The network under torch.compile without a graph break: same output, same gradients, other sizes, autocast, export."""

from __future__ import annotations

import pytest
import torch

from xyscannet.models import XYScanNetConfig, zoo
from xyscannet.models.xyscannet import pad_to_multiple

CONFIG = XYScanNetConfig(width=8, encoder_blocks=(0, 0, 1), decoder_blocks=(1, 0, 0))


@pytest.fixture(autouse=True)
def no_leftovers():
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def network() -> torch.nn.Module:
    network = zoo.build(CONFIG)
    torch.nn.init.normal_(network.output.weight, std=0.2)
    return network


@pytest.mark.slow  # torch traces the network for each size
def test_forward_of_the_fused_network_at_several_sizes():
    fused = network().fuse()
    compiled = torch.compile(fused, fullgraph=True, dynamic=False, backend="aot_eager")
    with torch.inference_mode():
        for size in ((16, 24), (21, 30)):
            image = torch.rand(1, 3, *size)
            torch.testing.assert_close(compiled(image), fused(image), rtol=1e-5, atol=1e-6)


def test_exported_with_sizes_that_vary(tmp_path):
    """Multiples of four pixels, where nothing is cut or padded."""
    plain, image = network().eval(), torch.rand(2, 3, 16, 24)
    with torch.no_grad():
        vary = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
        torch.export.save(torch.export.export(plain, (image,), dynamic_shapes=vary), tmp_path / "network.pt2")
        exported = torch.export.load(tmp_path / "network.pt2").module()
        for size in ((1, 3, 16, 24), (2, 3, 12, 40), (3, 3, 8, 8)):
            image = torch.rand(size)
            torch.testing.assert_close(exported(image), plain(image), rtol=1e-5, atol=1e-6)


def test_padding_where_sizes_vary():
    compiled = torch.compile(pad_to_multiple, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((21, 30), (16, 24), (7, 9)):
        image = torch.rand(1, 3, *size)
        assert torch.equal(compiled(image, 4), pad_to_multiple(image, 4))


@pytest.mark.slow  # torch traces the network
def test_autocast():
    fused = network().fuse()
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    image = torch.rand(1, 3, 16, 24)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(image), fused(image), rtol=0, atol=2e-2)


@pytest.mark.slow  # torch traces the network and its backward pass
def test_every_gradient():
    plain = network()
    compiled = torch.compile(plain, fullgraph=True, backend="aot_eager")
    image, weight = torch.rand(2, 3, 12, 16), torch.randn(2, 3, 12, 16)
    found = torch.autograd.grad(compiled(image), list(plain.parameters()), weight)
    expected = torch.autograd.grad(plain(image), list(plain.parameters()), weight)
    for (name, _), mine, own in zip(plain.named_parameters(), found, expected, strict=True):
        assert (mine - own).norm() <= 1e-4 * own.norm(), name
