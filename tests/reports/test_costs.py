"""Curves of time and memory: what they say of themselves, and that they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from xyscannet.errors import ConfigError
from xyscannet.reports.figures import canvas
from xyscannet.reports.figures.costs import Cost, cost_curves

pytest.importorskip("matplotlib")
NETWORKS = {
    "ours": [Cost(0.07, 0.5, 100 << 20), Cost(0.9, 7.0, 4 << 30)],
    "theirs": [Cost(0.07, 2.0, 300 << 20), Cost(0.9, None, None)],
}


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_every_format(tmp_path, suffix):
    path = tmp_path / f"costs.{suffix}"
    caption = cost_curves(path, NETWORKS, command="xyscan bench --plot costs.png")
    assert path.read_bytes().startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[suffix])
    assert caption.endswith("Made with: xyscan bench --plot costs.png")
    assert "Time and peak memory of a forward" in caption and "ours, theirs" in caption
    assert "Out of memory: theirs at 0.9 megapixels." in caption


def drawn(monkeypatch, networks):
    """The figure's axes, in place of a file."""
    held = []
    monkeypatch.setattr(canvas, "save", lambda figure, paths: held.extend(figure.axes))
    cost_curves("x.png", networks)
    return held


def test_lines_have_the_measured_points_on_logarithmic_axes(monkeypatch):
    time, memory = drawn(monkeypatch, NETWORKS)
    assert {scale for axes in (time, memory) for scale in (axes.get_xscale(), axes.get_yscale())} == {"log"}
    ours, theirs, grey = time.lines
    assert (list(ours.get_xdata()), list(ours.get_ydata())) == ([0.07, 0.9], [0.5, 7.0])
    assert list(theirs.get_xdata()) == [0.07]
    assert list(memory.lines[0].get_ydata()) == [100 / 1024, 4.0]
    x, y = grey.get_xdata(), grey.get_ydata()
    assert y[1] / y[0] == pytest.approx(x[1] / x[0])
    assert np.interp(0.07, x, y) == pytest.approx(0.5)


def test_memory_is_left_out_where_none_was_measured(monkeypatch):
    (time,) = drawn(monkeypatch, {"a": [Cost(1.0, 2.0, None)]})
    assert len(time.lines) == 1 and time.get_ylabel() == "time (s)"


def test_nothing_to_draw(tmp_path):
    with pytest.raises(ConfigError, match="no time"):
        cost_curves(tmp_path / "x.png", {"a": [Cost(1.0, None, None)]})
    with pytest.raises(ConfigError, match="written as"):
        cost_curves(tmp_path / "x.jpg", NETWORKS)


def test_many_lines_stay_apart_in_grey(tmp_path):
    styles = [canvas.style(index) for index in range(3 * len(canvas.STYLES))]
    assert len({(line, marker) for _, line, marker in styles}) == len(styles)
    path = tmp_path / "many.png"
    many = {
        f"network {i}": [Cost(0.1, i + 1.0, 1 << 30), Cost(1.0, 10.0 * (i + 1), 9 << 30)] for i in range(9)
    }
    cost_curves(path, many)
    assert np.asarray(Image.open(path).convert("L")).std() > 5
