"""Data for ablations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.miniature import picture


@pytest.fixture(scope="module")
def gopro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs to train on and three to test."""
    root = tmp_path_factory.mktemp("data") / "GoPro"
    for seed, place in enumerate(
        ("train/a/{}/1", "train/a/{}/2", "test/b/{}/1", "test/b/{}/2", "test/b/{}/3")
    ):
        for role in ("blur", "sharp"):
            picture(root / f"{place.format(role)}.png", size=(24, 20), seed=2 * seed + (role == "blur"))
    return root
