"""Receptive fields whose support is known, and areas of maps whose sums are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from xyscannet import checkpoint
from xyscannet.analysis import cases, erf
from xyscannet.errors import ConfigError, InputError
from xyscannet.inference.precision import arithmetic
from xyscannet.models import XYScanNet, XYScanNetConfig
from xyscannet.models.scanners import InterScanner, IntraScanner


def inputs(count: int, channels: int, height: int, width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, channels, height, width, generator=generator) for _ in range(count)]


def network(**changes) -> XYScanNet:
    torch.manual_seed(0)
    settings = {"width": 8, "encoder_blocks": (1, 0, 0), "decoder_blocks": (1, 0, 1), "d_state": 4} | changes
    model = XYScanNet(XYScanNetConfig(**settings)).eval().requires_grad_(False)
    nn.init.normal_(model.output.weight, std=0.1)
    return model


def test_a_convolution_has_its_kernel():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, padding=1)
    field = erf.receptive_field(conv, inputs(2, 3, 9, 12))
    kernel = conv.weight.sum(0).abs().sum(0).detach().numpy()  # (3, 3): a correlation, so not flipped
    assert field.inputs == 2 and field.map.shape == (9, 12)
    np.testing.assert_allclose(field.map[3:6, 5:8], kernel, rtol=1e-6)
    field.map[3:6, 5:8] = 0
    assert not field.map.any()


def test_a_field_is_the_mean_of_absolute_gradients():
    square = erf.receptive_field(lambda x: x * x, [torch.full((1, 1, 3, 3), v) for v in (1.0, -3.0)])
    assert square.map.tolist() == [[0, 0, 0], [0, 4, 0], [0, 0, 0]]  # of |2| and |-6|
    assert square.reached == 1 / 9


def support(field: erf.ReceptiveField) -> np.ndarray:
    return field.map != 0


def cross(size: int, whole: bool) -> np.ndarray:
    """The row and column of the centre, or of each the part up to it."""
    mask, centre = np.zeros((size, size), bool), size // 2
    end = size if whole else centre + 1
    mask[centre, :end] = mask[:end, centre] = True
    return mask


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_intra_scanner_sees_a_cross(bidirectional):
    torch.manual_seed(0)
    scanner = IntraScanner(8, bidirectional=bidirectional, d_state=4)
    field = erf.receptive_field(scanner, inputs(2, 8, 11, 11))
    assert np.array_equal(support(field), cross(11, bidirectional))
    row = erf.receptive_field(scanner, inputs(1, 8, 1, 11))
    assert support(row)[0].tolist() == [bidirectional or x <= 5 for x in range(11)]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_inter_scanner_sees_whole_slices(bidirectional):
    torch.manual_seed(0)
    scanner = InterScanner(8, bidirectional=bidirectional, d_state=4)
    seen = support(erf.receptive_field(scanner, inputs(2, 8, 9, 9)))
    place = np.arange(9)
    before = (place[:, None] <= 4) | (place[None, :] <= 4)
    assert np.array_equal(seen, before | bidirectional)


def test_an_inter_only_network_spans_the_image_and_one_without_scanners_does_not():
    images = inputs(1, 3, 64, 60)
    spanning = network(scanners=("inter", "inter"), fusion="none", decoder_blocks=(1, 0, 0))
    assert erf.receptive_field(erf.differentiated(spanning, "residual"), images).reached == 1
    local = network(fusion="none", decoder_blocks=(0, 0, 0), encoder_blocks=(1, 0, 0))
    seen = support(erf.receptive_field(erf.differentiated(local, "residual"), images))
    assert seen[32, 30] and not seen[:, 0].any() and not seen[0].any()


def test_the_skip_around_the_network_adds_one_at_the_centre():
    model, images = network(), inputs(2, 3, 15, 17)
    whole, residual = (
        erf.receptive_field(erf.differentiated(model, at), images) for at in ("restored", "residual")
    )
    outputs = erf.receptive_field(erf.differentiated(model, "output"), inputs(2, 3, 16, 20))
    assert outputs.map.shape == (16, 20)
    difference = whole.map - residual.map
    assert abs(difference[7, 8]) > 1
    difference[7, 8] = 0
    assert np.abs(difference).max() < 1e-5


def test_parts_by_name():
    model, images = network(), inputs(1, 3, 16, 16)
    embedding = erf.receptive_field(erf.differentiated(model, "patch_embed"), images)
    assert np.argwhere(support(embedding)).min(0).tolist() == [7, 7] and support(embedding).sum() == 9
    lower = erf.receptive_field(erf.differentiated(model, "encoder_level3"), images)
    assert lower.map.shape == (16, 16)
    with pytest.raises(ConfigError, match="did you mean 'patch_embed'"):
        erf.differentiated(model, "patch_embd")
    with pytest.raises(ConfigError, match=r"has a centre, not one of shape \(1, 16, 16, 2, 4\)"):
        erf.receptive_field(erf.differentiated(model, "decoder_level1.0.vssm1.scanner.mamba"), images)


def test_random_weights_of_a_checkpoints_network(tmp_path):
    model = network()
    checkpoint.save(tmp_path / "a.safetensors", model, model.config)
    trained, told = cases.load(str(tmp_path / "a.safetensors"))
    random, said = cases.load(str(tmp_path / "a.safetensors"), random=True)
    again, _ = cases.load(str(tmp_path / "a.safetensors"), random=True)
    assert (told, said) == ("a.safetensors", "random") and random.config == model.config
    assert torch.equal(trained.output.weight, model.output.weight)
    assert not torch.equal(random.output.weight, model.output.weight) and random.output.weight.any()
    assert torch.equal(random.output.weight, again.output.weight)


def test_scanners_alone_on_the_maps_that_they_meet():
    model, images = network(), inputs(2, 3, 20, 20)
    intra, inter, block = erf.scanner_fields(model, images)
    parts = [f"decoder_level1.0: {part}" for part in ("intra", "inter", "block")]
    assert [field.part for field in (intra, inter, block)] == parts
    centre = 10
    near = np.abs(np.arange(20) - centre) <= 1  # the 3x3 convolution before the scanner widens the cross
    before = np.arange(20) <= centre + 1
    expected = (near[:, None] & before[None, :]) | (before[:, None] & near[None, :])
    assert np.array_equal(support(intra), expected)
    assert np.array_equal(support(inter), before[:, None] | before[None, :])
    assert block.reached >= inter.reached

    entered = erf.entering(model, [model.decoder_level1[0].norm2_ssm], images[0])[0]
    module = model.decoder_level1[0]
    alone = erf.gradient(lambda x: module.vssm2(module.norm2_ssm(x)), entered)
    once = erf.scanner_fields(model, images[:1])[1]
    np.testing.assert_allclose(
        once.map, alone, rtol=1e-4
    )  # watched, the blocks before run operator by operator
    (twice, *_) = erf.scanner_fields(network(scanners=("ss2d", "ss2d")), images, "decoder_level3.0")
    assert twice.part == "decoder_level3.0: ss2d 1" and twice.map.shape == (5, 5)
    with pytest.raises(ConfigError, match="decoder_level3.0, decoder_level1.0"):
        erf.scanner_fields(model, images, "decoder_level2.0")


def test_areas_of_known_maps():
    field = np.zeros((5, 7))
    field[2, 3] = 5  # the centre
    field[1, 2] = 3  # in the square of 3
    field[2, 6] = 2  # in that of 7, which is cut to 5x7
    sides = [(area.side, area.ratio) for area in erf.areas(field, (0.2, 0.5, 0.51, 0.8, 0.81, 1.0))]
    assert sides == [(1, 1 / 35), (1, 1 / 35), (3, 9 / 35), (3, 9 / 35), (7, 1.0), (7, 1.0)]
    uniform = erf.areas(np.ones((101, 101)))
    assert [area.side for area in uniform] == [
        47,
        57,
        73,
        101,
    ]  # the first odd n with n * n >= share * 101 * 101
    assert all(area.ratio == area.side**2 / 101**2 for area in uniform)
    even = erf.areas(
        np.ones((4, 4)), (0.5, 1.0)
    )  # the centre is at (2, 2): one row and column fewer behind it
    assert [(area.side, area.ratio) for area in even] == [(3, 9 / 16), (5, 1.0)]
    assert [area.side for area in erf.areas(field * 1e-30)] == [area.side for area in erf.areas(field)]


@pytest.mark.parametrize("bad", [np.zeros((3, 3)), -np.ones((3, 3)), np.full((3, 3), np.nan)])
def test_areas_of_what_is_no_field(bad):
    with pytest.raises(InputError):
        erf.areas(bad)


def test_inputs_that_make_no_field():
    with pytest.raises(InputError, match="no input"):
        erf.receptive_field(nn.Identity(), [])
    with pytest.raises(InputError, match="several sizes"):
        erf.receptive_field(nn.Identity(), [torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 4)])
    with pytest.raises(InputError, match="gradient of input 1 is not finite"):
        erf.receptive_field(torch.sqrt, [torch.zeros(1, 1, 3, 3)])


@pytest.mark.gpu
def test_a_gpu_sees_the_same():
    model, images = network(), inputs(1, 3, 20, 20)
    here = erf.receptive_field(erf.differentiated(model, "residual"), images)
    with arithmetic("cuda", torch.float32):  # as in the command
        there = erf.receptive_field(erf.differentiated(model.cuda(), "residual"), [x.cuda() for x in images])
    np.testing.assert_allclose(there.map, here.map, rtol=1e-3, atol=1e-5 * here.map.max())
