"""How much a clip flickers: the difference of consecutive frames that motion does not explain."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from xyscannet.errors import InputError
from xyscannet.metrics.pixels import rgb8, size
from xyscannet.video import flow


@dataclass(frozen=True)
class Flicker:
    """Warped differences of a restored clip and of its input.

    Attributes:
        output, input: mean absolute difference, in levels of 255, between each frame and the one before, warped along
            the motion between them; over the pixels that both show.
        frames: number of frames.
    """

    output: float
    input: float
    frames: int

    @property
    def ratio(self) -> float:
        """Flicker of the output over that of the input; above 1 the restoration adds some. 1 where neither has any."""
        if self.input == 0:
            return 1.0 if self.output == 0 else math.inf
        return self.output / self.input


def flicker(
    outputs: Iterable[np.ndarray], inputs: Iterable[np.ndarray], guides: Iterable[np.ndarray] | None = None
) -> Flicker:
    """Measure the flicker of a restored clip; frames are read one after another, and two are held.

    The warped difference is that of Lai et al., "Learning Blind Video Temporal Consistency" (2018), with the motion by
    dense inverse search and occlusions by comparing forward and backward motion.

    Args:
        outputs, inputs: restored and blurred frames, (H, W, 3) uint8 RGB of one size.
        guides: frames that the motion is estimated on, e.g. sharp ones; by default the inputs.

    Raises InputError for fewer than two frames, numbers of frames or sizes that differ, and where no pixel is seen in
    two frames.
    """
    sums, count, frames = np.zeros(2), 0, 0
    before: tuple[np.ndarray, ...] | None = None
    streams = (outputs, inputs) if guides is None else (outputs, inputs, guides)
    try:
        for now in zip(*streams, strict=True):
            now = tuple(rgb8(image) for image in now)
            if len({image.shape for image in now}) > 1:
                raise InputError(f"frame {frames + 1}: the sizes differ: {', '.join(map(size, now))}")
            if before is not None:
                back = flow.motion(now[-1], before[-1])
                seen = flow.visible(back, flow.motion(before[-1], now[-1]))
                for i in range(2):
                    difference = np.abs(now[i] - np.clip(flow.warp(before[i], back), 0, 255))
                    sums[i] += difference[seen].sum()
                count += 3 * int(seen.sum())
            before = now
            frames += 1
    except ValueError as error:
        raise InputError(f"the clips differ in their number of frames: {error}") from error
    if not count:
        raise InputError("flicker needs two frames at least that show the same things")
    return Flicker(float(sums[0] / count), float(sums[1] / count), frames)
