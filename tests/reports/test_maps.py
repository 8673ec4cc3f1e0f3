"""Figures of receptive fields and of maps: drawn, readable in grey, and refused where there is nothing to draw."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from xyscannet.errors import ConfigError
from xyscannet.reports.figures import erf, maps
from xyscannet.reports.figures.erf import Field, decades, receptive_fields
from xyscannet.reports.figures.maps import Panel, rows, span


def hill(size: int = 33, reach: int = 33) -> np.ndarray:
    """A map that falls off from its centre, and is zero beyond `reach`."""
    place = np.abs(np.arange(size) - size // 2)
    far = np.maximum(place[:, None], place[None])
    return np.where(far <= reach, 10.0 ** (-far / 4.0), 0)


def test_the_colours_fall_in_luminance():
    pytest.importorskip("matplotlib")
    from matplotlib import colormaps

    for name in {erf.COLOURS, maps.COLOURS}:
        red, green, blue, _ = colormaps[name](np.linspace(0, 1, 256)).T
        luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
        assert (np.diff(luminance) < 0).all() and luminance[0] > 0.9 and luminance[-1] < 0.05


def test_receptive_fields_are_drawn(tmp_path: Path):
    squares = [(0.2, 1, 1 / 1089), (0.99, 15, 225 / 1089)]
    fields = [Field(f"network {n}", hill(reach=n), squares, "random weights") for n in (4, 33, 8, 12, 33)]
    paths = [tmp_path / name for name in ("a.png", "a.pdf", "a.svg")]
    caption = receptive_fields(paths, fields, what="the gradient", command="xyscan erf x")
    assert "network 4 (random weights), network 33 (random weights)" in caption
    assert "Squares hold 20 %, 99 % of the sum" in caption and caption.endswith("Made with: xyscan erf x")
    assert all(path.stat().st_size > 5000 for path in paths) and not list(tmp_path.glob(".*"))
    page = cv2.imread(str(paths[0]), cv2.IMREAD_GRAYSCALE)
    first = page[100:500, 20:500]  # inside the first panel: a dark centre, white where the map is zero
    assert first.min() < 30 and (first == 255).mean() > 0.5


def test_how_many_decades_are_shown():
    assert decades([hill()]) == 4  # 10 ** (-16 / 4) at the edge
    assert decades([np.eye(3)]) == 1 and decades([hill() ** 9]) == erf.MOST_DECADES
    assert decades([hill(reach=4), hill() ** 2]) == 8


@pytest.mark.parametrize("fields", [[], [Field("x", np.zeros((3, 3)), [])]])
def test_no_field(fields, tmp_path):
    with pytest.raises(ConfigError, match="not zero everywhere"):
        receptive_fields(tmp_path / "a.png", fields, what="")
    with pytest.raises(ConfigError):
        receptive_fields(tmp_path / "a.gif", [Field("x", np.eye(3), [])], what="")


def test_rows_of_photographs_maps_and_profiles(tmp_path: Path):
    photo = np.full((20, 30, 3), 99, np.uint8)
    panels = [
        Panel("photograph", photo),
        Panel("residual", np.linspace(-1, 1, 600).reshape(20, 30), signed=True),
        Panel("delta", hill(20)),
        Panel("delta ↓", np.arange(20.0), down=True, note="beneath"),
        Panel("delta →", np.ones(30)),
    ]
    caption = rows(
        [tmp_path / "a.png", tmp_path / "a.pdf"],
        [("one\nblock", panels), ("_two", panels[:2])],
        "Maps.",
        "xyscan f",
    )
    assert caption == "Maps. Darker is more. Made with: xyscan f"
    assert (tmp_path / "a.png").stat().st_size > 5000 and (tmp_path / "a.pdf").exists()
    for bad in ([], [("empty", [])]):
        with pytest.raises(ConfigError, match="a panel in every row"):
            rows(tmp_path / "b.png", bad, "")
    with pytest.raises(ConfigError, match="no photograph, map or profile"):
        rows(tmp_path / "b.png", [("bad", [Panel("x", np.ones((2, 2, 2)))])], "")


def test_outliers_leave_the_rest_its_contrast():
    values = np.append(np.linspace(0, 1, 1000), 1e6)
    low, high = span(values)
    assert 0 <= low < 0.01 and 0.99 < high <= 1
    assert span(np.zeros(5), np.ones(5)) == (0, 1)
