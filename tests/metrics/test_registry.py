from __future__ import annotations

import importlib.metadata
import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.metrics import registry
from xyscannet.metrics.base import ImageMetric, MetricInfo
from xyscannet.metrics.pixels import rgb8


def pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    sharp = random.integers(0, 256, (40, 53, 3), dtype=np.uint8)
    return np.clip(sharp + random.normal(0, 20, sharp.shape), 0, 255).astype(np.uint8), sharp


def test_psnr_and_ssim_are_those_of_scikit_image() -> None:
    restored, sharp = pair()
    psnr, ssim = registry.build_all(["psnr", "ssim"])
    assert psnr.update(restored, sharp) == peak_signal_noise_ratio(sharp, restored, data_range=255)
    assert ssim.update(restored, sharp) == structural_similarity(
        sharp,
        restored,
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert psnr.update(sharp, sharp) == math.inf
    for metric in (psnr, ssim):
        assert metric.higher_is_better and metric.needs_sharp and metric.kind == "image"
        assert f"scikit-image {importlib.metadata.version('scikit-image')}" in metric.note


def test_every_name_is_described_without_being_built() -> None:
    assert {"psnr", "ssim"} <= set(registry.names())
    for name in registry.names():
        info = registry.info(name)
        assert info.name == name and info.title and info.kind in ("image", "distribution")


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'psnr'"):
        registry.build("pnsr")
    with pytest.raises(ConfigError, match=r"known: psnr, .*pyiqa:NAME"):
        registry.info("xxxxxxxxxxxx")


def test_a_missing_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UnavailableError, match=r"scikit-image.*xyscannet\[metrics\]"):
        registry.build("psnr")


def test_sizes_that_differ_are_refused() -> None:
    restored, sharp = pair()
    with pytest.raises(InputError, match="53×39 pixels, the sharp one 53×40"):
        registry.build("psnr").update(restored[:-1], sharp)
    with pytest.raises(InputError, match="psnr needs the sharp image"):
        registry.build("psnr").update(restored)
    with pytest.raises(InputError, match="ssim.*11 pixels"):
        registry.build("ssim").update(restored[:10], sharp[:10])


def test_grey_pairs_are_rgb_with_equal_channels() -> None:
    restored, sharp = (image[..., 0] for image in pair())
    metric = registry.build("psnr")
    value = metric.update(restored, sharp)
    assert value == metric.update(*(np.repeat(image[..., None], 3, 2) for image in (restored, sharp)))
    assert value == metric.update(restored[..., None], np.repeat(sharp[..., None], 3, 2))


def test_16_bit_pairs_are_taken_at_8_bit() -> None:
    restored, sharp = pair()
    metric = registry.build("psnr")
    deep = [image.astype(np.uint16) * 257 for image in (restored, sharp)]
    assert metric.update(*deep) == metric.update(deep[0], sharp) == metric.update(restored, sharp)
    values = np.array([[0, 128, 129, 65535 - 129, 65535 - 128, 65535]], np.uint16)
    assert rgb8(values)[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


@pytest.mark.parametrize("shape", [(4, 4, 2), (4, 4, 4), (0, 4, 3), (4,), (1, 4, 4, 3)])
def test_arrays_that_are_no_image_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="array of shape"):
        rgb8(np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match="float64"):
        rgb8(np.zeros((4, 4, 3)))


def test_a_value_that_is_not_a_number_is_an_error() -> None:
    info = MetricInfo("odd", "Odd", True, False)
    metric = ImageMetric(info, "", lambda restored, sharp: float("nan"))
    with pytest.raises(InputError, match="odd is not a number"):
        metric.update(pair()[0])
