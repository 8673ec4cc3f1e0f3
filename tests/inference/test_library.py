"""`xyscannet.load(...)` and `model.restore(image)`: what comes in goes out, restored."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import xyscannet
from xyscannet import checkpoint
from xyscannet.errors import ConfigError, InputError
from xyscannet.inference import restore, restore_at_scales
from xyscannet.models import XYScanNet, XYScanNetConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> XYScanNet:
    torch.manual_seed(0)
    config = XYScanNetConfig(width=8, encoder_blocks=(1, 0, 1), decoder_blocks=(1, 0, 1), d_state=4)
    network = XYScanNet(config)
    torch.nn.init.normal_(network.output.weight, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    checkpoint.save(path, network, config)
    return xyscannet.load(path)


def image(height: int = 13, width: int = 22, seed: int = 0) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def expected(model: XYScanNet, batch: torch.Tensor) -> torch.Tensor:
    return restore(model, batch)


def test_it_is_the_network_and_the_embedded_weights_load_by_name(model) -> None:
    assert isinstance(model, XYScanNet) and not model.training
    named = xyscannet.load("xyscannet-s")
    assert named.config.width == 24
    assert named.state_dict().keys() == checkpoint.load_model("xyscannet-s").state_dict().keys()


def test_tensors_come_back_as_tensors(model) -> None:
    one, batch = image(), torch.stack([image(), image(seed=1)])
    wanted = expected(model, batch)
    assert (wanted - batch).abs().max() > 0.01
    found = model.restore(batch)
    assert found.shape == batch.shape and found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    torch.testing.assert_close(model.restore(one), wanted[0], rtol=0, atol=1e-6)
    turned = one.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # other strides
    torch.testing.assert_close(model.restore(turned), wanted[0], rtol=0, atol=1e-6)
    tracked = batch.clone().requires_grad_()
    assert not model.restore(tracked).requires_grad and torch.equal(tracked, batch)
    half = model.restore(batch.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16 and (half.float() - wanted).abs().max() < 0.05


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.float16])
def test_arrays_come_back_as_arrays(model, dtype: type) -> None:
    white = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    array = np.asarray(image().permute(1, 2, 0)) * white
    array = np.rint(array).astype(dtype) if white > 1 else array.astype(dtype)
    before = array.copy()
    found = model.restore(array)
    assert isinstance(found, np.ndarray) and found.dtype == array.dtype and found.shape == array.shape
    wanted = expected(model, torch.from_numpy(array.astype(np.float32) / white).permute(2, 0, 1)[None])
    step = 0.5 / white + 1e-6 if white > 1 else 1e-3
    assert np.abs(found / np.float64(white) - wanted[0].permute(1, 2, 0).numpy()).max() <= step
    assert (array == before).all() and found.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(model.restore(array[:, ::-1][:, ::-1]), found)
    if white > 255:
        np.testing.assert_array_equal(model.restore(array.astype(">u2")), found)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_integer_tensors(model, dtype: torch.dtype) -> None:
    white = torch.iinfo(dtype).max
    pixels = (image() * white).round().to(dtype)
    found = model.restore(pixels)
    assert found.dtype == dtype and found.shape == pixels.shape
    wanted = expected(model, pixels.float()[None] / white)[0]
    assert (found.float() / white - wanted).abs().max() <= 0.501 / white + 1e-6


def test_read_only_arrays_and_the_smallest_image(model) -> None:
    array = np.full((1, 1, 3), 77, np.uint8)
    array.flags.writeable = False
    assert model.restore(array).shape == (1, 1, 3)


def test_options(model) -> None:
    batch = image(80, 140)[None]
    tiled = model.restore(batch, tile=64)
    whole = model.restore(batch, tile="none")
    assert 0 < (tiled - whole).abs().max() < 0.5
    small = image(8, 12)
    assert 0 < (model.restore(small, ensemble=True) - model.restore(small)).abs().max() < 0.5
    low = model.restore(small, dtype=torch.bfloat16)
    assert low.dtype == torch.float32 and 0 < (low - model.restore(small)).abs().max() < 0.1


@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float32])
def test_weights_of_a_lower_type(weights: torch.dtype, tmp_path: Path) -> None:
    model, small = xyscannet.load("xyscannet-s", dtype=weights), image(8, 12)
    restored = model.restore(small)
    away = (restored - xyscannet.load("xyscannet-s").restore(small)).abs().max()
    assert away < 0.02 if weights == torch.bfloat16 else away == 0
    assert torch.equal(restore(model, small[None])[0], restored)
    assert torch.equal(restore_at_scales(model, small[None])[0][0], restored)


@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float16])
def test_weights_of_a_lower_type_compute_in_float32_too(weights: torch.dtype) -> None:
    model, small = xyscannet.load("xyscannet-s", dtype=weights), image(8, 12)
    wanted = copy.deepcopy(model).float().restore(small)
    assert torch.equal(model.restore(small, dtype=torch.float32), wanted)
    model.output.register_forward_hook(
        lambda module, given, made: made if made.dtype == torch.float32 else made * torch.inf
    )
    assert torch.equal(model.restore(small), wanted)  # where the lower type overflows
    assert model.output.weight.dtype == weights


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.zeros((5, 4), np.uint8), r"\(H, W, 3\), RGB, not \(5, 4\)"),
        (np.zeros((3, 5, 4), np.uint8), "(H, W, 3)"),
        (np.zeros((5, 4, 4), np.uint8), "(H, W, 3)"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros((5, 4, 3), np.int32), "uint8, uint16 or floating"),
        (np.zeros((5, 4, 3), np.longdouble), "uint8, uint16 or floating"),
        (np.zeros((5, 4, 3), object), "uint8, uint16 or floating"),
        (np.full((5, 4, 3), 200.0), r"\[0, 1\].* 200"),
        (torch.zeros(5, 4, 3), "shape"),
        (torch.zeros(1, 4, 5, 4), "shape"),
        (torch.zeros(5, 4), "shape"),
        (torch.zeros(3, 5, 4, dtype=torch.int64), "uint8, uint16 or floating"),
        ("photo.jpg", "not str"),
    ],
)
def test_what_is_no_picture_is_refused(model, picture: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        model.restore(picture)


def test_weights_in_double_precision_compute_in_it(tmp_path: Path) -> None:
    double, single = (xyscannet.load("xyscannet-s", dtype=dtype) for dtype in (torch.float64, torch.float32))
    image = np.random.default_rng(0).random((20, 68, 3))
    for options in ({}, {"tile": 64}, {"dtype": torch.bfloat16}):
        error = np.abs(
            double.restore(image, **options) - single.restore(image, **{**options, "dtype": None})
        ).max()
        assert 0 < error < 1e-5


@pytest.mark.parametrize("options", [{"tile": 3.5}, {"tile": None}, {"tile": True}, {"dtype": torch.int8}])
def test_options_that_are_none_are_refused(model, options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        model.restore(np.zeros((8, 8, 3), np.uint8), **options)


def test_numbers_that_are_not_finite(model) -> None:
    spoilt = image()
    spoilt[0, 2, 3] = torch.nan
    with pytest.raises(InputError, match="not finite"):
        model.restore(spoilt)
