"""Figures: what they choose to show, what they say of themselves, and that they are drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xyscannet.errors import ConfigError, InputError
from xyscannet.reports import figures
from xyscannet.reports.figures import canvas
from xyscannet.reports.figures.charts import ratios
from xyscannet.reports.results import Column, Evaluation, ImageResult, Summary

pytest.importorskip("matplotlib")
NAMES = ("psnr", "lpips-alex", "niqe", "dists")
COLUMNS = tuple(Column(name, name.upper(), "", name == "psnr", "") for name in NAMES)


def evaluation(label: str, better: float, kept: bool = True) -> Evaluation:
    """Eight images, the first one the worst in every metric."""
    images = tuple(
        ImageResult(
            f"s/{i}",
            {name: 20.0 + i + better if name == "psnr" else 9.0 - i - better for name in NAMES},
            f"blur {i}",
            f"{label} {i}" if kept else f"blur {i}",
            f"sharp {i}",
            80,
            120,
        )
        for i in range(8)
    )
    means = {name: 20.0 + better if name == "psnr" else 5.0 - better for name in NAMES}
    summaries = {name: Summary(mean, mean, mean - 1, mean + 1, 8) for name, mean in means.items()}
    return Evaluation(label, "mini", "plain", COLUMNS, images, summaries, command="xyscan eval --figures f")


def read(path: str) -> np.ndarray:
    kind, number = path.rsplit(" ", 1)
    image = np.random.default_rng(int(number)).integers(0, 120, (80, 120, 3), dtype=np.uint8)
    if kind not in ("blur", "sharp"):
        image[48:68, 90:110] += 100  # what the method changed
    return image


BOTH = evaluation("blurred input", 0, kept=False), evaluation("network", 1)


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_every_figure_in_every_format(tmp_path, suffix):
    magic = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix]
    makers = {
        "grid": lambda path: figures.qualitative_grid(
            path, figures.samples(BOTH, read), command="xyscan eval"
        ),
        "radar": lambda path: figures.radar(path, BOTH),
        "histograms": lambda path: figures.histograms(path, BOTH),
    }
    for name, make in makers.items():
        path = tmp_path / f"{name}.{suffix}"
        caption = make(path)
        assert path.read_bytes().startswith(magic) and "xyscan eval" in caption
        if suffix == "png":
            grey = np.asarray(Image.open(path).convert("L"))
            assert grey.std() > 5 and min(grey.shape) > 400
    assert len(list(tmp_path.iterdir())) == 3


def test_samples_are_the_worst_the_best_and_one_between():
    read_files = []
    chosen = figures.samples(BOTH, lambda path: read_files.append(path) or read(path))
    assert [sample.name for sample in chosen] in (["s/0", "s/3", "s/7"], ["s/0", "s/4", "s/7"])
    assert list(chosen[0].columns()) == ["Blurred", "network", "Sharp"]
    assert len(read_files) == 9
    assert figures.samples(BOTH[:1], read) == [] or figures.samples(BOTH[:1], read)[0].blurred is None


def test_crops_lie_where_methods_differ_and_apart():
    (sample, *_) = figures.samples(BOTH, read)
    first, second = figures.pick_crops(sample, 2)
    inside = first.top < 58 < first.top + first.height and first.left < 100 < first.left + first.width
    assert inside
    apart = (
        second.left >= first.left + first.width
        or first.left >= second.left + second.width
        or second.top >= first.top + first.height
        or first.top >= second.top + second.height
    )
    assert apart and first.of(read("blur 0")).shape[:2] == (first.height, first.width)
    assert figures.pick_crops(sample, 2) == [first, second]


def test_the_radar_grows_outwards():
    low, high = (Column("x", "X", "", higher, "") for higher in (False, True))
    assert ratios([2.0, 4.0], low) == [1.0, 0.5] and ratios([2.0, 4.0], high) == [0.5, 1.0]
    assert all(0 <= value <= 1 for value in ratios([-0.001, 0.0, 3.0], low))
    assert figures.radar_metrics(BOTH) == ["lpips-alex", "niqe", "dists"]


def test_all_at_once(tmp_path):
    written = [path.name for path in figures.write_all(tmp_path / "f", BOTH, read=read)]
    expected = [f"{n}.{s}" for n in ("qualitative", "radar", "histograms") for s in ("pdf", "png")]
    assert written == [*expected, "captions.txt"]
    assert {path.name for path in (tmp_path / "f").iterdir()} == set(written)
    captions = " ".join((tmp_path / "f/captions.txt").read_text().split())
    assert captions.count("xyscan eval --figures f") >= 3 and "Not drawn" not in captions


def test_what_cannot_be_drawn_is_told(tmp_path):
    written = figures.write_all(tmp_path / "f", BOTH[:1], read=read)
    assert not any("radar" in path.name for path in written)
    assert "Not drawn" in (tmp_path / "f/captions.txt").read_text()
    figures.write_all(tmp_path / "f", BOTH, read=lambda path: read(path)[: 72 if "network" in path else 80])
    assert "images of different sizes: Blurred 120x80, network 120x72" in " ".join(
        (tmp_path / "f/captions.txt").read_text().split()
    )
    with pytest.raises(ConfigError, match="three metrics"):
        figures.radar(tmp_path / "a.png", [replace(each, columns=COLUMNS[:2]) for each in BOTH])
    with pytest.raises(ConfigError, match="two evaluations"):
        figures.radar(tmp_path / "a.png", BOTH[:1])
    with pytest.raises(ConfigError):
        figures.histograms(tmp_path / "a.gif", BOTH)
    with pytest.raises(InputError):
        figures.histograms(tmp_path / "no/a.png", BOTH)


def test_training_curves_show_loss_and_validation(tmp_path: Path) -> None:
    from xyscannet.errors import ConfigError
    from xyscannet.reports.figures.training import curves

    records = [{"event": "step", "step": n, "loss": 0.1 / n} for n in range(1, 40)]
    records += [{"event": "validation", "step": n, "psnr": 25 + n / 40, "psnr_blur": 25.0} for n in (20, 40)]
    caption = curves([tmp_path / "c.png", tmp_path / "c.svg"], records, name="mine")
    drawn = (tmp_path / "c.svg").read_text()
    assert (
        "<!-- 0.05 -->" in drawn and "mathdefault" not in drawn
    )  # a number on the loss's axis, not its markup
    assert "mine: loss over 39 steps" in caption and "best 26.00 dB at step 40" in caption
    assert (tmp_path / "c.png").stat().st_size > 5000 and "<svg" in (tmp_path / "c.svg").read_text()
    with pytest.raises(ConfigError, match="no training step"):
        curves(tmp_path / "d.png", records[-2:])


def test_headings_shrink_before_they_are_cut() -> None:
    assert canvas.fitted("Wiener", 12) == ("Wiener", 8)
    text, size = canvas.fitted("Richardson-Lucy", 12)
    assert text == "Richardson-Lucy" and 5 < size < 8
    text, size = canvas.fitted("a" * 30 + "-end", 12)
    assert text.startswith("…") and text.endswith("-end") and len(text) <= 12 * 8 / 5 and size >= 5
