from __future__ import annotations

import builtins
import math

import cv2
import numpy as np
import pytest

from xyscannet.errors import UnavailableError
from xyscannet.metrics import distortion
from xyscannet.metrics.distortion import psnr, ssim


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    sharp = random.integers(0, 256, (40, 53, 3), dtype=np.uint8)
    sharp = cv2.GaussianBlur(sharp, (0, 0), 1.0)
    restored = np.clip(sharp + random.normal(0, 6, sharp.shape), 0, 255).astype(np.uint8)
    return restored, sharp


def test_psnr_is_its_formula() -> None:
    restored, sharp = images()
    error = np.mean((restored.astype(float) - sharp) ** 2)
    assert psnr(restored, sharp) == pytest.approx(10 * math.log10(255**2 / error))
    assert psnr(sharp, sharp) == math.inf


def test_ssim_is_its_formula_with_an_11_tap_window() -> None:
    restored, sharp = images()

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.GaussianBlur(image, (11, 11), 1.5)[5:-5, 5:-5]

    values = []
    for channel in range(3):
        x, y = restored[..., channel].astype(float), sharp[..., channel].astype(float)
        mx, my = mean(x), mean(y)
        vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        values.append(
            ((2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))).mean()
        )
    assert ssim(restored, sharp) == pytest.approx(np.mean(values), abs=1e-6)
    assert ssim(sharp, sharp) == pytest.approx(1)


def test_wrong_arrays_are_refused() -> None:
    restored, sharp = images()
    for call in (psnr, ssim):
        with pytest.raises(ValueError, match="differ in size"):
            call(restored[:-1], sharp)
        with pytest.raises(ValueError, match="uint8"):
            call(restored / 255, sharp)
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(restored[:10], sharp[:10])


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("skimage"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UnavailableError, match=r"xyscannet\[metrics\]"):
        distortion.psnr(*images())
