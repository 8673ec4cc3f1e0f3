"""The convolution kernel that a drawn blur has at the image's centre, as non-blind deconvolution wants to know it."""

from __future__ import annotations

import numpy as np

from . import motion
from .exposure import BlurParameters


def centre_kernels(parameters: BlurParameters) -> list[np.ndarray]:
    """One kernel (2r + 1, 2r + 1) float64 an item, which sums to 1: blurred = sharp * kernel near the centre.

    Of the camera's motion alone: moving objects, noise, highlights and the response are not in it. Away from the
    centre a turning camera blurs otherwise. Sub-frames are those of `render`, spread bilinearly over four taps.
    """
    path = parameters.transforms()  # (B, T, 3, 3)
    points = motion.tracks(path, parameters.height, parameters.width)
    counts, times, weights = motion.place_frames(points, parameters.step_px)
    moved = motion.at_times(path, times)[..., 2]  # (B, N, 3), of the centre
    offsets = -moved[..., :2] / moved[..., 2:]  # a scene point at +s is seen at -s
    return [
        _spread(offset[:count].cpu().numpy(), weight[:count].cpu().numpy())
        for offset, weight, count in zip(offsets, weights, counts)
    ]


def _spread(offsets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights (N,) at offsets (N, 2), x and y in pixels, on a grid."""
    offsets = offsets.round(6)  # rounding noise about a pixel would ask for the next one
    radius = int(np.ceil(np.abs(offsets).max()))
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    whole = np.floor(offsets).astype(int)
    part = offsets - whole
    for dx in (0, 1):
        for dy in (0, 1):
            share = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
            inside = share > 0
            x, y = (whole[inside, axis] + step + radius for axis, step in ((0, dx), (1, dy)))
            np.add.at(kernel, (y, x), (weights * share)[inside])
    return kernel / kernel.sum()
