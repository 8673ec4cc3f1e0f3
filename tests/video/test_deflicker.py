"""Changes blended along the motion: flicker goes, what is right stays, and nothing is dragged along."""

from __future__ import annotations

import numpy as np
import pytest

from tests.video import clips
from xyscannet.video.deflicker import Deflicker


def deflickered(frames: np.ndarray, changes: np.ndarray) -> np.ndarray:
    deflicker = Deflicker()
    return np.stack([deflicker(frame, change.astype(np.float32)) for frame, change in zip(frames, changes)])


def test_a_steady_change_stays() -> None:
    frames = clips.pan(5, 48, 64)
    changes = np.full(frames.shape, 0.25, np.float32)
    assert np.allclose(deflickered(frames, changes), 0.25, atol=1e-5)


def test_a_change_that_moves_along_stays() -> None:
    """What is changed lies on the scene, which moves by a pixel a frame."""
    frames = clips.pan(6, 48, 64)
    changes = frames.astype(np.float32) / 255 - 0.5
    inner = deflickered(frames, changes)[:, 8:-8, 8:-8]
    assert np.abs(inner - changes[:, 8:-8, 8:-8]).mean() < 0.01


def test_flicker_becomes_less() -> None:
    frames = clips.pan(12, 48, 64)
    noise = np.random.default_rng(0).normal(0, 0.05, (12, 1, 1, 1)) + np.zeros(frames.shape)
    found = deflickered(frames, noise)
    assert np.array_equal(found[0], noise[0].astype(np.float32))
    steps = np.abs(np.diff(found, axis=0)).mean() / np.abs(np.diff(noise, axis=0)).mean()
    assert steps < 0.6


def test_nothing_is_taken_over_a_cut() -> None:
    frames = np.concatenate([clips.pan(2, 48, 64), clips.pan(2, 48, 64, "radio-dish.jpg")])
    changes = np.concatenate([np.zeros((2, 48, 64, 3)), np.ones((2, 48, 64, 3))])
    assert deflickered(frames, changes)[2].mean() > 0.95


def test_frames_too_small_for_motion_pass() -> None:
    frames = clips.pan(3, 12, 12)
    changes = np.random.default_rng(0).random(frames.shape).astype(np.float32)
    assert np.array_equal(deflickered(frames, changes), changes)


@pytest.mark.parametrize("count", [1, 4])
def test_frames_are_counted(count: int) -> None:
    deflicker = Deflicker()
    for frame in clips.pan(count, 32, 32):
        deflicker(frame, np.zeros(frame.shape, np.float32))
    assert deflicker.frames == count
