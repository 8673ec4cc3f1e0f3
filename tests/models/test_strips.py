"""The network in strips gives what it gives as a whole."""

from __future__ import annotations

import pytest
import torch

from xyscannet.errors import ConfigError
from xyscannet.models import XYScanNet, XYScanNetConfig
from xyscannet.models.strips import Strips, may_be_taken_apart

SMALLEST = 1  # elements: every strip is one row, or column, of the smallest map


def network(dtype: torch.dtype = torch.float64, **variant) -> XYScanNet:
    torch.manual_seed(0)
    blocks = {"encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1)}
    model = XYScanNet(XYScanNetConfig(width=8, **blocks, **variant)).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    return model.to(dtype)


def differ(model: torch.nn.Module, image: torch.Tensor, elements: int = SMALLEST) -> float:
    """The largest difference over the residual's largest value."""
    whole, strips = model(image), Strips(model, elements, least=1)(image)
    assert strips.shape == whole.shape and strips.dtype == whole.dtype
    return ((strips - whole).abs().max() / (whole - image).abs().max()).item()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "variant",
    [
        {},
        {"bidirectional": True},
        {"gate": "mean"},
        {"fusion": "aff"},
        {"fusion": "none"},
        {"scanners": ("intra", "intra"), "expand": 1},
        {"scanners": ("inter", "inter"), "bidirectional": True},
        {"ffn_expansion": 2.5, "d_conv": 2},
    ],
    ids=str,
)
def test_every_variant_in_the_smallest_strips(variant: dict, fused: bool) -> None:
    model = network(**variant)
    image = torch.rand(1, 3, 18, 23, dtype=torch.float64)
    assert differ(model.fuse() if fused else model, image) < 1e-10


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (65, 65), (1, 500), (500, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    assert differ(network(), torch.rand(1, 3, *size, dtype=torch.float64), 1000) < 1e-10


def test_float32_and_a_batch() -> None:
    assert differ(network(torch.float32).fuse(), torch.rand(2, 3, 30, 41), 500) < 1e-5


def test_bfloat16_differs_by_its_rounding_alone() -> None:
    model, image = network(torch.float32).fuse(), torch.rand(1, 3, 32, 48)
    with torch.autocast("cpu", torch.bfloat16):
        assert differ(model, image, 500) < 0.05


def test_the_input_is_left_as_it_is() -> None:
    image = torch.rand(1, 3, 8, 12, dtype=torch.float64)
    before = image.clone()
    Strips(network(), SMALLEST, least=1)(image)
    assert torch.equal(image, before)


def test_progress_rises_to_one() -> None:
    seen: list[float] = []
    Strips(network(), 500, 1, seen.append)(torch.rand(2, 3, 20, 20, dtype=torch.float64))
    assert seen == sorted(seen) and len(seen) > 20 and seen[-1] == pytest.approx(1)


def test_sequences_of_the_whole_map_are_refused() -> None:
    with pytest.raises(ConfigError, match="ss2d"):
        Strips(network(scanners=("ss2d", "ss2d")))


def own_forward(module: torch.nn.Module) -> None:
    module.forward = lambda x: x


@pytest.mark.parametrize("change", [lambda module: module.register_forward_hook(print), own_forward])
@pytest.mark.parametrize(
    "name",
    [
        "",
        "encoder_level1",
        "encoder_level2.0",
        "decoder_level1.0",
        "decoder_level3.0.vssm1",
        "decoder_level2.0.vssm2.scanner",
        "fusion_level1",
    ],
)
def test_what_strips_would_leave_out_is_seen(name, change) -> None:
    model = network()
    assert may_be_taken_apart(model) and may_be_taken_apart(model.fuse())
    change(model.get_submodule(name))
    assert not may_be_taken_apart(model) and not may_be_taken_apart(model.fuse())
    with pytest.raises(ConfigError, match="hooks"):
        Strips(model)


@pytest.mark.parametrize("name", ["decoder_level1.0", "decoder_level1.0.vssm1", "fusion_level2"])
def test_so_is_what_was_replaced(name) -> None:
    model = network()
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, torch.nn.Sequential(model.get_submodule(name)))
    assert not may_be_taken_apart(model)


def test_what_a_step_calls_may_have_hooks() -> None:
    model = network()
    model.decoder_level1[0].ffn1.register_forward_hook(lambda module, given, made: 2 * made)
    assert may_be_taken_apart(model)
    assert differ(model, torch.rand(1, 3, 18, 23, dtype=torch.float64)) < 1e-10
