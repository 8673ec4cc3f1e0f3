"""PSNR and SSIM under RealBlur's alignment (Rim et al. 2020): intensity and position are matched first.

RealBlur's pairs come from two cameras behind one lens, so that sharp and blurred images differ by a gain and by a
homography. Before the comparison the restored image z is scaled to the sharp image x by sum(x z) / sum(z z), aligned
to it with the ECC algorithm (Evangelidis and Psarakis 2008) and compared where it has pixels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from xyscannet.errors import InputError
from xyscannet.metrics.distortion import scikit_image
from xyscannet.opencv import cv2

ITERATIONS = 100
FILTER_TAPS = 5
RADIUS = 5  # of SSIM's window


@dataclass(frozen=True)
class Aligned:
    """The compared images, (H, W, 3) float32 with 1.0 for white and zero outside the mask, and how they came about.

    `homography` (3, 3) maps a pixel (x, y, 1) of the sharp image to the restored image; `mask` is (H, W) bool.
    """

    restored: np.ndarray
    sharp: np.ndarray
    mask: np.ndarray
    homography: np.ndarray
    scale: float


def align(restored: np.ndarray, sharp: np.ndarray) -> Aligned:
    """Scales and warps the restored image onto the sharp one, (H, W, 3) uint8 each.

    Homography from the identity in 100 iterations of ECC on grey images behind a 5-tap Gaussian, bicubic warp. Raises
    InputError for a black restored image and where ECC finds no alignment.
    """
    z = restored.astype(np.float32) / 255
    x = sharp.astype(np.float32) / 255
    energy = float(np.sum(z * z, dtype=np.float64))
    if energy == 0:
        raise InputError("the restored image is black: RealBlur's alignment cannot scale it")
    scale = float(np.sum(x * z, dtype=np.float64)) / energy
    z *= np.float32(scale)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, ITERATIONS, 0)
    template, moving = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (x, z))
    try:
        _, homography = cv2.findTransformECC(
            template, moving, np.eye(3, dtype=np.float32), cv2.MOTION_HOMOGRAPHY, criteria, None, FILTER_TAPS
        )
    except cv2.error as error:
        raise InputError(f"RealBlur's alignment fails, the images are too different: {error.err}") from error
    size = (x.shape[1], x.shape[0])
    z = cv2.warpPerspective(
        z, homography, size, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
    )
    inside = np.ones(x.shape[:2], np.uint8)
    mask = cv2.warpPerspective(
        inside,
        homography,
        size,
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
    ).astype(bool)
    if not mask.any():
        raise InputError("RealBlur's alignment fails: no pixel of the restored image lies on the sharp one")
    return Aligned(z * mask[..., None], x * mask[..., None], mask, homography, scale)


def psnr(aligned: Aligned) -> float:
    """Peak signal-to-noise ratio in dB over the mask; inf if equal."""
    restored, sharp = aligned.restored[aligned.mask], aligned.sharp[aligned.mask]
    if np.array_equal(restored, sharp):
        return float("inf")
    return float(scikit_image().peak_signal_noise_ratio(sharp, restored, data_range=1.0))


def ssim(aligned: Aligned) -> float:
    """Structural similarity over the mask, without a border of the window's 5 pixels, mean over the channels.

    Raises ValueError for images without a pixel that the border leaves.
    """
    inner = aligned.mask[RADIUS:-RADIUS, RADIUS:-RADIUS]
    if not inner.any():
        raise ValueError(f"SSIM's window of 11 pixels does not fit into {aligned.sharp.shape[:2]}")
    _, full = scikit_image().structural_similarity(
        aligned.sharp,
        aligned.restored,
        data_range=1.0,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        K1=0.01,
        K2=0.03,
        full=True,
    )
    return float(full[RADIUS:-RADIUS, RADIUS:-RADIUS][inner].mean(dtype=np.float64))


class Aligner:
    """`align` with a memory of one pair, so that PSNR and SSIM of a pair take one alignment."""

    def __init__(self) -> None:
        self._last: tuple[bytes, Aligned] | None = None

    def __call__(self, restored: np.ndarray, sharp: np.ndarray) -> Aligned:
        digest = hashlib.blake2b(str(restored.shape).encode())
        digest.update(np.ascontiguousarray(restored))
        digest.update(np.ascontiguousarray(sharp))
        key = digest.digest()
        if self._last is None or self._last[0] != key:
            self._last = (key, align(restored, sharp))
        return self._last[1]
