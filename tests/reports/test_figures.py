"""Figures: what they choose to show, what they say of themselves, and that they are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xyscannet.errors import ConfigError, InputError
from xyscannet.reports import figures
from xyscannet.reports.results import Column, Evaluation, ImageResult, Summary

pytest.importorskip("matplotlib")
NAMES = ("psnr", "lpips-alex", "niqe", "dists")
COLUMNS = tuple(Column(name, name.upper(), "", name == "psnr", "") for name in NAMES)


def evaluation(label: str, better: float, kept: bool = True) -> Evaluation:
    """Eight images; image i is better by i hundredths than in the blurred input."""
    images = tuple(
        ImageResult(
            f"s/{i}",
            {name: (1 if name == "psnr" else -1) * (better * i / 100) + 5 + i for name in NAMES},
            f"blur {i}",
            f"{label} {i}" if kept else f"blur {i}",
            f"sharp {i}",
            80,
            120,
        )
        for i in range(8)
    )
    summaries = {
        name: Summary((1 if name == "psnr" else -1) * better + 5, 5.0, 4.0, 6.0, 8) for name in NAMES
    }
    return Evaluation(label, "mini", "plain", COLUMNS, images, summaries, command="xyscan eval --figures f")


def read(path: str) -> np.ndarray:
    kind, number = path.rsplit(" ", 1)
    image = np.random.default_rng(int(number)).integers(0, 120, (80, 120, 3), dtype=np.uint8)
    if kind not in ("blur", "sharp"):
        image[40:54, 100:114] += 100  # what the method changed
    return image


BOTH = evaluation("blurred input", 0, kept=False), evaluation("network", 1)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_every_figure_in_every_format(tmp_path, suffix):
    magic = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    makers = {
        "grid": lambda path: figures.qualitative_grid(path, BOTH, read=read),
        "radar": lambda path: figures.radar(path, BOTH),
        "histograms": lambda path: figures.histograms(path, BOTH),
    }
    for name, make in makers.items():
        path = tmp_path / f"{name}.{suffix}"
        caption = make(path)
        first = path.read_bytes()
        assert first.startswith(magic) and "`xyscan eval --figures f`" in caption
        make(path)
        assert path.read_bytes() == first
        if suffix == "png":
            assert np.asarray(Image.open(path).convert("L")).std() > 5
    assert len(list(tmp_path.iterdir())) == 3


def test_the_grid_shows_what_changed_of_the_most_improved(tmp_path):
    shown = []
    figures.qualitative_grid(tmp_path / "a.png", BOTH, read=lambda path: shown.append(path) or read(path))
    assert shown[:3] == ["blur 7", "network 7", "sharp 7"]
    assert {path.rsplit(" ", 1)[1] for path in shown} <= {"4", "5", "6", "7"} and len(shown) == 9
    left, top, side = figures._window(
        {"Blurred": read("blur 7"), "network": read("network 7"), "Sharp": read("sharp 7")}
    )
    assert side == 16 and 98 <= left <= 100 and 38 <= top <= 40
    asked = []
    figures.qualitative_grid(
        tmp_path / "b.png",
        BOTH,
        read=lambda path: asked.append(path) or read(path),
        images=["s/2"],
        crops={"s/2": (0, 0, 20)},
    )
    assert asked == ["blur 2", "network 2", "sharp 2"]


def test_all_at_once(tmp_path):
    written = [path.name for path in figures.write_all(tmp_path / "f", BOTH, read=read)]
    assert written == [f"{n}.{s}" for n in ("grid", "histograms", "radar") for s in ("pdf", "png")] + [
        "captions.md"
    ]
    assert Path(tmp_path / "f/captions.md").read_text().count("**") == 6


def test_figures_without_restored_files_have_no_grid(tmp_path):
    written = [path.name for path in figures.write_all(tmp_path / "f", BOTH[:1], read=read)]
    assert written == ["histograms.pdf", "histograms.png", "captions.md"]


def test_what_cannot_be_drawn(tmp_path):
    with pytest.raises(ConfigError, match="no restored images"):
        figures.qualitative_grid(tmp_path / "a.png", BOTH[:1], read=read)
    with pytest.raises(ConfigError, match="three perceptual"):
        figures.radar(tmp_path / "a.png", BOTH, metrics=["niqe"])
    with pytest.raises(ConfigError, match="three perceptual"):
        figures.radar(tmp_path / "a.png", BOTH[:1])
    with pytest.raises(ConfigError, match="pdf, svg or png"):
        figures.histograms(tmp_path / "a.gif", BOTH)
    with pytest.raises(InputError, match="cannot be written"):
        figures.histograms(tmp_path / "no/a.png", BOTH)
