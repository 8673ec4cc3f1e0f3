"""PSNR and SSIM of restored against sharp images, on 8-bit RGB, computed by scikit-image."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from xyscannet.errors import UnavailableError


def scikit_image() -> ModuleType:
    """scikit-image's metrics. Raises UnavailableError where the package is missing."""
    try:
        from skimage import metrics
    except ImportError as error:
        raise UnavailableError(
            "PSNR and SSIM need the package scikit-image: pip install scikit-image, or 'xyscannet[metrics]'"
        ) from error
    return metrics


def _check(restored: np.ndarray, sharp: np.ndarray) -> None:
    for name, image in (("restored", restored), ("sharp", sharp)):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"{name} must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    if restored.shape != sharp.shape:
        raise ValueError(f"restored {restored.shape[:2]} and sharp {sharp.shape[:2]} differ in size")


def psnr(restored: np.ndarray, sharp: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all pixels and channels of (H, W, 3) uint8 images; inf if equal."""
    _check(restored, sharp)
    if np.array_equal(restored, sharp):
        return float("inf")
    return float(scikit_image().peak_signal_noise_ratio(sharp, restored, data_range=255))


def ssim(restored: np.ndarray, sharp: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004) of (H, W, 3) uint8 images, both sides at least 11 pixels.

    Gaussian window of 11x11, sigma 1.5, K1 = 0.01, K2 = 0.03, population covariance, mean over the channels.
    """
    _check(restored, sharp)
    if min(sharp.shape[:2]) < 11:
        raise ValueError(f"SSIM's window of 11 pixels does not fit into {sharp.shape[:2]}")
    return float(
        scikit_image().structural_similarity(
            sharp,
            restored,
            data_range=255,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            K1=0.01,
            K2=0.03,
        )
    )
