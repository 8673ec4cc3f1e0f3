"""`--deterministic` on a GPU: two runs of one seed give one loss curve, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    for index, image in enumerate(noise):
        Image.fromarray(image).resize((384, 384), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def curve(photos: Path, folder: Path, precision: str, seed: int) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step of a run in a process of its own."""
    options = [f"data.photos=[{photos}]", "data.patch=64", "data.batch=2", "iterations=12", "log_every=1"]
    options += ["model=xyscannet-s", f"precision={precision}", f"seed={seed}"]
    arguments = [part for option in options for part in ("--set", option)]
    command = [sys.executable, "-m", "xyscan_cli", "train", "smoke", *arguments, "--output", str(folder)]
    subprocess.run(
        [*command, "--device", "cuda", "--deterministic"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=600,
    )
    records = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(each["loss"], each["grad_norm"]) for each in records if each["event"] == "step"]


@pytest.mark.gpu
@pytest.mark.slow  # three processes that compile kernels
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_seed_one_loss_curve(photos: Path, tmp_path: Path, precision: str) -> None:
    first = curve(photos, tmp_path / "first", precision, 5)
    assert len(first) == 12
    assert curve(photos, tmp_path / "second", precision, 5) == first
    assert curve(photos, tmp_path / "other", precision, 6) != first
