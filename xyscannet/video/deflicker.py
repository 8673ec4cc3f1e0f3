"""Less flicker: what is changed in a frame is blended with what was changed in the frame before, moved along.

A network that restores each frame by itself changes the same thing a little differently from frame to frame. Only the
change is blended, never the picture: repeated warping would soften that.
"""

from __future__ import annotations

import numpy as np

from ..opencv import cv2
from . import flow

WARM_UP = 3  # frames before a segment that lead into it: the step to its first is hardly larger than others
_SHARE = 0.7  # of the change before, where the frames agree
_AGREEMENT = 8.0  # levels of 255: frames that differ by so much along the motion share a factor e less
_SMALLEST = 16  # pixels of a side that motion is found in


class Deflicker:
    """Blends the changes of consecutive frames; called with one frame after another.

    Attributes:
        frames: number of frames so far.
    """

    def __init__(self) -> None:
        self.frames = 0
        self._frame: np.ndarray | None = None
        self._change: np.ndarray | None = None

    def __call__(self, frame: np.ndarray, change: np.ndarray) -> np.ndarray:
        """The blended change of a frame.

        Args:
            frame: (H, W, 3) uint8 RGB, before restoration.
            change: (H, W, 3) float32, what restoration adds to it, in any unit.
        """
        if self._frame is not None and self._change is not None and min(frame.shape[:2]) >= _SMALLEST:
            back = flow.motion(frame, self._frame)
            share = self._share(frame, back)[..., None]
            change = (1 - share) * change + share * flow.warp(self._change, back)
        self._frame, self._change = frame, change
        self.frames += 1
        return change

    def _share(self, frame: np.ndarray, back: np.ndarray) -> np.ndarray:
        """How much of the change before to take, (H, W): nothing where it is not seen, little where frames differ."""
        seen = flow.visible(back, flow.motion(self._frame, frame))
        difference = np.abs(frame - flow.warp(self._frame, back)).mean(2)
        difference = cv2.GaussianBlur(difference, (0, 0), 1.5)
        share = _SHARE * seen * np.exp(-((difference / _AGREEMENT) ** 2))
        return cv2.GaussianBlur(share.astype(np.float32), (0, 0), 1.0)
