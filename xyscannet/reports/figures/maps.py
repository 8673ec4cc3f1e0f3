"""Rows of photographs, maps and profiles over them: residual features (the paper's Figure 8), delta and decay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xyscannet.errors import ConfigError
from xyscannet.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = "magma_r"  # darker is more, in grey too
_LABEL, _TITLE, _RANGE, _GAP, _HEADING = 0.27, 0.17, 0.15, 0.05, 0.05  # inches


@dataclass(frozen=True, eq=False)
class Panel:
    """A panel of a row.

    Attributes:
        title: above it.
        values: (H, W, 3) uint8, a photograph; (H, W), a map; (L,), a profile of the photograph's height or width.
        signed: zero is grey, more is lighter and less darker; else darker is more.
        down: of a profile: along the height.
        limits: what the colours, or the profile's axis, reach from and to; by default the `span` of the map, of
            signed ones the same to both sides of zero, and of a profile its least and greatest value.
        note: beneath it; by default its limits.
    """

    title: str
    values: np.ndarray
    signed: bool = False
    down: bool = False
    limits: tuple[float, float] | None = None
    note: str | None = None


def rows(
    path: Path | str | Sequence[Path | str],
    panels: Sequence[tuple[str, Sequence[Panel]]],
    caption: str,
    command: str = "",
) -> str:
    """Draw labelled rows of panels of one shape, to one file or several, and return the caption.

    Args:
        panels: a row's label, of one line or several, and its panels; rows may be of different lengths.
        caption: what is shown; that darker is more is added.
        command: what made it.

    Raises:
        ConfigError: no panel, or one whose values have no such shape; another suffix.
        UnavailableError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    paths = canvas.check_paths(path)
    if not panels or not all(row for _, row in panels):
        raise ConfigError("a figure needs a panel in every row")
    across = max(len(row) for _, row in panels)
    wide = min((canvas.WIDTH - _LABEL) / across - _GAP, 2.6)
    heights = [_height(row, wide) + _TITLE + _RANGE for _, row in panels]
    with canvas.page(_LABEL + across * (wide + _GAP), sum(heights) + _HEADING) as figure:
        width, height = figure.get_size_inches()
        top = height - _HEADING
        for (label, row), tall in zip(panels, heights, strict=True):
            inner = tall - _TITLE - _RANGE
            text = "\n".join(canvas.shortened(line, int(inner * 17)) for line in label.split("\n"))
            middle = (top - _TITLE - inner / 2) / height
            figure.text(0.12 / width, middle, text, rotation=90, ha="center", va="center", size=6)
            for index, panel in enumerate(row):
                left = _LABEL + index * (wide + _GAP)
                place = (left / width, (top - _TITLE - inner) / height, wide / width, inner / height)
                axes = figure.add_axes(place)
                limits = _draw(axes, panel)
                x = (left + wide / 2) / width
                title = canvas.shortened(panel.title, int(wide * 17))
                figure.text(x, (top - _TITLE + 0.03) / height, title, ha="center", va="bottom", size=7)
                note = panel.note if panel.note is not None else _told(limits)
                y = (top - _TITLE - inner - 0.02) / height
                figure.text(x, y, note, ha="center", va="top", size=6, color="0.25")
            top -= tall
        canvas.save(figure, paths)
    return f"{caption} Darker is more." + (f" Made with: {command}" if command else "")


def _height(row: Sequence[Panel], wide: float) -> float:
    """Inches of the row's tallest image."""
    return max(
        (wide * p.values.shape[0] / p.values.shape[1] for p in row if p.values.ndim > 1), default=0.6 * wide
    )


def _draw(axes: Axes, panel: Panel) -> tuple[float, float] | None:
    """The panel's values, and the limits that they are drawn in."""
    values = panel.values
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(linewidth=0.4, color="0.4")
    if values.ndim == 3 and values.shape[2] == 3:
        axes.imshow(values)
        return None
    limits = panel.limits or _limits(values, panel.signed)
    if values.ndim == 2:
        colours = "gray" if panel.signed else COLOURS
        axes.imshow(
            values, cmap=colours, vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest"
        )
    elif values.ndim == 1:
        _profile(axes, panel, limits)
    else:
        raise ConfigError(f"{panel.title}: values of shape {values.shape} are no photograph, map or profile")
    return limits


def _profile(axes: Axes, panel: Panel, limits: tuple[float, float]) -> None:
    """Along the height the value grows to the right, along the width upwards."""
    place = np.arange(len(panel.values)) + 0.5
    low, high = limits
    room = 0.05 * (high - low) or 1e-12
    span = (low - room, high + room)
    if panel.down:
        axes.plot(panel.values, place, color="black", linewidth=0.8)
        axes.set(xlim=span, ylim=(len(place), 0))
    else:
        axes.plot(place, panel.values, color="black", linewidth=0.8)
        axes.set(xlim=(0, len(place)), ylim=span)


def span(*values: np.ndarray, middle: float = 0.99) -> tuple[float, float]:
    """From where to where the middle share of all the values lies: a few outliers leave the rest its contrast."""
    together = np.concatenate([each.ravel() for each in values])
    low, high = np.quantile(together, [(1 - middle) / 2, (1 + middle) / 2])
    return float(low), float(high)


def _limits(values: np.ndarray, signed: bool) -> tuple[float, float]:
    if signed:
        most = span(np.abs(values), middle=0.98)[1]
        return -most, most
    return span(values) if values.ndim == 2 else (float(values.min()), float(values.max()))


def _told(limits: tuple[float, float] | None) -> str:
    return "" if limits is None else f"{limits[0]:.3g} … {limits[1]:.3g}"
