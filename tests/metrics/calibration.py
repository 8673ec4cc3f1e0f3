"""The five pairs that pyiqa ships to calibrate metrics with, and what is needed for tests on them."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import cv2
import numpy as np
import pytest

NAMES = ("I03", "I04", "I06", "I08", "I19")


def needs(*packages: str) -> pytest.MarkDecorator:
    """Skips where one of the packages, named as they are imported, is not installed."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(absent), reason=f"not installed: {', '.join(absent)}")


def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The distorted image and its reference, (384, 512, 3) uint8 RGB."""
    files = importlib.metadata.files("pyiqa")
    images = []
    for folder in ("dist_dir", "ref_dir"):
        (file,) = [file for file in files if file.as_posix() == f"ResultsCalibra/{folder}/{name}.bmp"]
        images.append(cv2.imread(str(file.locate()))[..., ::-1])
    return images[0], images[1]
