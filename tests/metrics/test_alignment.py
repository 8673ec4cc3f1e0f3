from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from xyscannet.errors import InputError
from xyscannet.metrics import alignment, distortion, registry

HOMOGRAPHY = np.array([[1.004, 0.003, -2.3], [-0.002, 0.997, 1.6], [4e-6, -3e-6, 1]])


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours, (H, W, 3) float in 0..255."""
    random = np.random.default_rng(seed)
    image = sum(
        cv2.GaussianBlur(random.normal(0, 1, (height, width, 3)), (0, 0), sigma) * sigma
        for sigma in (1.5, 4, 12)
    )
    return 90 + 90 * (image - image.mean()) / np.abs(image).max()


def displaced(gain: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    """A restored image that the homography maps onto the sharp one after division by the gain, and the sharp one."""
    sharp = texture(240, 320)
    size = (320, 240)
    restored = cv2.warpPerspective(
        sharp, HOMOGRAPHY, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    return tuple(np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in (gain * restored, sharp))


def test_a_known_homography_and_scale_are_recovered() -> None:
    restored, sharp = displaced()
    aligned = alignment.align(restored, sharp)
    corners = np.array([[0, 0, 1], [319, 0, 1], [0, 239, 1], [319, 239, 1]]).T

    def moved(homography: np.ndarray) -> np.ndarray:
        places = homography @ corners
        return places[:2] / places[2]

    assert np.abs(moved(aligned.homography) - moved(HOMOGRAPHY)).max() < 0.1  # pixels
    assert np.abs(moved(np.eye(3)) - moved(HOMOGRAPHY)).max() > 2
    x, z = sharp / 255, restored / 255
    assert aligned.scale == pytest.approx((x * z).sum() / (z * z).sum(), rel=1e-6)
    assert aligned.scale == pytest.approx(1 / 0.8, rel=0.02)
    assert 0.9 < aligned.mask.mean() < 1


def test_alignment_restores_both_metrics() -> None:
    restored, sharp = displaced()
    names = ["psnr", "ssim", "psnr-realblur", "ssim-realblur"]
    plain_psnr, plain_ssim, psnr, ssim = (
        metric.update(restored, sharp) for metric in registry.build_all(names)
    )
    assert plain_psnr < 22 and plain_ssim < 0.9
    assert psnr > 38 and ssim > 0.98


def test_equal_images_stay_where_they_are() -> None:
    _, sharp = displaced()
    aligned = alignment.align(sharp, sharp)
    assert np.abs(aligned.homography - np.eye(3)).max() < 1e-4
    assert aligned.scale == pytest.approx(1)
    assert alignment.psnr(aligned) > 60 and alignment.ssim(aligned) == pytest.approx(1, abs=1e-4)


def test_only_the_mask_counts() -> None:
    restored, sharp = displaced()
    aligned = alignment.align(restored, sharp)
    outside = ~aligned.mask
    assert outside.any() and not aligned.restored[outside].any() and not aligned.sharp[outside].any()
    error = np.mean((aligned.restored.astype(float) - aligned.sharp)[aligned.mask] ** 2)
    assert alignment.psnr(aligned) == pytest.approx(10 * math.log10(1 / error))
    everywhere = peak_signal_noise_ratio(aligned.sharp, aligned.restored, data_range=1)
    assert everywhere > alignment.psnr(aligned)  # zeros that agree would flatter

    clean = alignment.align(sharp, sharp)
    half = np.zeros_like(clean.mask)
    half[:, :160] = True
    broken = clean.restored.copy()
    broken[:, 200:] = 0
    kept = alignment.Aligned(broken, clean.sharp, half, clean.homography, clean.scale)
    assert alignment.ssim(kept) == pytest.approx(1, abs=1e-4)
    everything = alignment.Aligned(broken, clean.sharp, clean.mask, clean.homography, clean.scale)
    assert alignment.ssim(everything) < 0.9


def test_over_a_whole_mask_they_are_the_plain_metrics() -> None:
    restored, sharp = displaced()
    x, z = (image.astype(np.float32) / 255 for image in (sharp, restored))
    whole = alignment.Aligned(z, x, np.ones(x.shape[:2], bool), np.eye(3), 1.0)
    assert alignment.psnr(whole) == pytest.approx(distortion.psnr(restored, sharp), abs=1e-4)
    assert alignment.ssim(whole) == pytest.approx(distortion.ssim(restored, sharp), abs=1e-4)


def test_psnr_and_ssim_share_one_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    align = alignment.align
    monkeypatch.setattr(alignment, "align", lambda *images: calls.append(1) or align(*images))
    psnr, ssim = registry.build_all(["psnr-realblur", "ssim-realblur"])
    restored, sharp = displaced()
    first = psnr.update(restored, sharp)
    ssim.update(restored, sharp)
    assert len(calls) == 1
    restored[:] = np.roll(restored, 1, axis=1)  # the same array with other pixels is another pair
    assert psnr.update(restored, sharp) != first
    assert len(calls) == 2


def test_images_that_cannot_be_aligned_are_refused() -> None:
    psnr = registry.build("psnr-realblur")
    _, sharp = displaced()
    with pytest.raises(InputError, match="black"):
        psnr.update(np.zeros_like(sharp), sharp)
    with pytest.raises(InputError, match="RealBlur's alignment fails"):
        psnr.update(255 - sharp, sharp)
    with pytest.raises(InputError, match="pixels, the sharp one"):
        psnr.update(sharp[:-1], sharp)
    with pytest.raises(InputError, match="11 pixels"):
        registry.build("ssim-realblur").update(sharp[:10], sharp[:10])
