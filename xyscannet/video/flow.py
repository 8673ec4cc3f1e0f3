"""Motion between frames: dense optical flow, warping along it, and where it can be trusted."""

from __future__ import annotations

import numpy as np

from ..opencv import cv2

TOLERANCE = 0.5  # pixels by which forward and backward motion may differ


def motion(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Optical flow (H, W, 2) in pixels, x and y: what is at p in `one` is at p + flow in `other`.

    Dense inverse search (Kroeger et al., 2016) by OpenCV, on (H, W, 3) uint8 RGB images of at least 16 x 16 pixels.
    """
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (one, other)]
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return search.calc(*grey, None)


def warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The image (H, W, ...) as float32 at p + flow, bicubic; beyond the border its edge."""
    height, width = flow.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    at = flow[..., 0] + x, flow[..., 1] + y
    return cv2.remap(image.astype(np.float32), *at, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def visible(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Where (H, W) the motion leads to a place inside that leads back, within TOLERANCE: what is not occluded."""
    height, width = forward.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    to_x, to_y = x + forward[..., 0], y + forward[..., 1]
    inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
    there_and_back = forward + warp(backward, forward)
    return inside & (np.hypot(there_and_back[..., 0], there_and_back[..., 1]) < TOLERANCE)
