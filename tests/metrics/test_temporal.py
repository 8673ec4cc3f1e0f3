"""Flicker: none where nothing changes or all moves alike, and what is added to it is found."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.video import clips
from xyscannet.errors import InputError
from xyscannet.metrics.temporal import flicker
from xyscannet.video import flow


def moved(count: int, x: float, y: float, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """A window that moves over a photograph by (x, y) pixels a frame."""
    picture = clips.pan(1, 480, 640)[0]
    frames = []
    for i in range(count):
        place = np.float32([[1, 0, 200 + x * i], [0, 1, 150 + y * i]])
        frames.append(
            cv2.warpAffine(picture, place, (width, height), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP)
        )
    return frames


def flickering(frames: list[np.ndarray], levels: int) -> list[np.ndarray]:
    return [
        np.clip(frame.astype(int) + levels * (i % 2), 0, 255).astype(np.uint8)
        for i, frame in enumerate(frames)
    ]


def test_a_still_clip_has_none() -> None:
    frames = [clips.pan(1, 64, 96)[0]] * 4
    found = flicker(frames, frames)
    assert (found.output, found.input, found.ratio, found.frames) == (0, 0, 1, 4)


@pytest.mark.parametrize(("x", "y"), [(3, 0), (-2, 1), (1.5, -2.25)])
def test_motion_is_found_and_explained(x: float, y: float) -> None:
    frames = moved(3, x, y)
    found = flow.motion(frames[0], frames[1])[16:-16, 16:-16]
    assert np.abs(np.median(found, (0, 1)) - [-x, -y]).max() < 0.1
    unexplained = np.abs(frames[1].astype(float) - frames[0])[16:-16, 16:-16].mean()
    assert flicker(frames, frames).output < 0.25 * unexplained


def test_what_is_added_is_found() -> None:
    frames = moved(4, 2, 1)
    found = flicker(flickering(frames, 6), frames)
    assert found.output - found.input == pytest.approx(6, abs=found.input)
    assert found.ratio > 1 > flicker(frames, flickering(frames, 6), guides=frames).ratio


def test_what_comes_into_view_does_not_count() -> None:
    """A bright square passes over a scene: what it covers and uncovers is no flicker."""
    scene = clips.pan(1, 96, 128)[0]
    frames = []
    for i in range(3):
        frame = scene.copy()
        frame[30:60, 20 + 12 * i : 50 + 12 * i] = clips.pan(1, 30, 30, "radio-dish.jpg")[0]
        frames.append(frame)
    back = flow.motion(frames[1], frames[0])
    seen = flow.visible(back, flow.motion(frames[0], frames[1]))
    assert seen[:24].mean() > 0.95 and seen[32:58, 22:30].mean() < 0.6


def test_refused() -> None:
    frames = moved(3, 1, 0)
    with pytest.raises(InputError, match="two frames at least"):
        flicker(frames[:1], frames[:1])
    with pytest.raises(InputError, match="number of frames"):
        flicker(frames, frames[:2])
    with pytest.raises(InputError, match="frame 1: the sizes differ"):
        flicker(frames, [frame[:-8] for frame in frames])
