"""Effective receptive fields side by side (the paper's Figure 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xyscannet.errors import ConfigError
from xyscannet.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

COLOURS = "magma_r"  # darker is more, in grey too; white is left for what is not reached at all
MOST_DECADES = 12
_SQUARES = (":", "-.", "--", "-")
_TEXT = 0.56  # inches beneath a panel
_SMALLEST = 1 / 16  # of the width: squares that are smaller would cover what they show


@dataclass(frozen=True, eq=False)
class Field:
    """A panel.

    Attributes:
        title: what it is of; `note` how, e.g. "random weights".
        map: (H, W) >= 0, its centre at H // 2, W // 2.
        squares: of each share of the sum the side of the square that holds it and its area ratio.
    """

    title: str
    map: np.ndarray
    squares: Sequence[tuple[float, int, float]]
    note: str = ""


def receptive_fields(
    path: Path | str | Sequence[Path | str],
    fields: Sequence[Field],
    *,
    what: str,
    command: str = "",
    across: int = 4,
) -> str:
    """Draw the fields on one logarithmic scale, to one file or several, and return the caption.

    Args:
        what: the gradient that was taken, of how many inputs, for the caption.
        command: what made them.
        across: most panels in a row.

    Raises:
        ConfigError: no field, or one that is zero everywhere; another suffix.
        UnavailableError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    paths = canvas.check_paths(path)
    if not fields or not all(field.map.max() > 0 for field in fields):
        raise ConfigError("a receptive field is drawn of maps that are not zero everywhere")
    low = -decades([field.map for field in fields])
    across = min(len(fields), across)
    down = -(-len(fields) // across)
    side = min((canvas.WIDTH - 0.1) / across, 2.6)
    row = side * max(f.map.shape[0] / f.map.shape[1] for f in fields) + 0.34 + _TEXT
    with canvas.page(max(side * across + 0.1, 3.4), row * down + 0.4) as figure:
        width, height = figure.get_size_inches()
        start = (width - side * across) / 2
        for index, field in enumerate(fields):
            left, top = start + index % across * side, height - index // across * row
            tall = (side - 0.1) * field.map.shape[0] / field.map.shape[1]
            place = (left + 0.05, top - 0.32 - tall, side - 0.1, tall)
            axes = figure.add_axes((place[0] / width, place[1] / height, place[2] / width, place[3] / height))
            drawn = _field(axes, field, low)
            _words(figure, field, place, side)
        _scale(figure, drawn, low)
        canvas.save(figure, paths)
    shares = ", ".join(f"{100 * share:g} %" for share, _, _ in fields[0].squares)
    return (
        f"Effective receptive fields of {', '.join(_full(field) for field in fields)}: {what}, each over its largest "
        f"value, on a logarithmic scale. Darker is more; white is exactly zero. Squares hold {shares} of the sum; "
        "beneath are their areas over the whole. Squares too small to be seen are not drawn."
        + (f" Made with: {command}" if command else "")
    )


def decades(maps: Sequence[np.ndarray]) -> int:
    """How many powers of ten below each map's largest value are shown: those of 99 in 100 pixels that are not zero."""
    low = 0.0
    for found in maps:
        reached = found[found > 0] / found.max()
        low = min(low, float(np.quantile(np.log10(reached), 0.01)))
    return min(max(math.ceil(-low), 1), MOST_DECADES)


def _field(axes: Axes, field: Field, low: int) -> AxesImage:
    from matplotlib.patches import Rectangle

    with np.errstate(divide="ignore"):
        shown = np.log10(field.map / field.map.max())
    shown = np.ma.masked_where(field.map == 0, np.maximum(shown, low))
    drawn = axes.imshow(shown, cmap=COLOURS, vmin=low, vmax=0, interpolation="nearest", resample=False)
    axes.set(xticks=[], yticks=[])
    height, width = field.map.shape
    for index, (_, side, ratio) in enumerate(field.squares):
        if ratio < 1 and side >= _SMALLEST * width:
            corner = (width // 2 - side / 2, height // 2 - side / 2)
            for colour, thick in (("white", 1.6), ("black", 0.7)):
                line = _SQUARES[index % len(_SQUARES)] if colour == "black" else "-"
                axes.add_patch(
                    Rectangle(corner, side, side, fill=False, color=colour, linewidth=thick, linestyle=line)
                )
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(height - 0.5, -0.5)
    return drawn


def _words(figure: Figure, field: Field, place: tuple[float, float, float, float], side: float) -> None:
    """Title above and area ratios beneath a panel, whose place is in inches."""
    width, height = figure.get_size_inches()
    left, bottom, wide, tall = place
    middle, letters = (left + wide / 2) / width, int(side * 15)
    title = canvas.shortened(field.title, letters)
    figure.text(middle, (bottom + tall + 0.16) / height, title, ha="center", va="bottom", size=8)
    figure.text(
        middle, (bottom + tall + 0.04) / height, field.note, ha="center", va="bottom", size=6.5, color="0.3"
    )
    lines = [f"{100 * share:g} %: {_percent(ratio)} ({extent} px)" for share, extent, ratio in field.squares]
    figure.text(middle, (bottom - 0.05) / height, "\n".join(lines), ha="center", va="top", size=6.5)


def _percent(ratio: float) -> str:
    return "100 %" if ratio == 1 else f"{100 * ratio:.2g} %"


def _scale(figure: Figure, drawn: AxesImage, low: int) -> None:
    width, height = figure.get_size_inches()
    axes = figure.add_axes((0.5 - 1.3 / width, 0.26 / height, 2.6 / width, 0.07 / height))
    bar = figure.colorbar(drawn, cax=axes, orientation="horizontal")
    step = max(1, -(low // 6))
    ticks = list(range(0, low - 1, -step))[::-1]
    bar.set_ticks(ticks, labels=["1" if tick == 0 else f"1e{tick}" for tick in ticks])
    bar.outline.set_linewidth(0.4)
    axes.tick_params(width=0.4, length=2, pad=1.5)


def _full(field: Field) -> str:
    return f"{field.title} ({field.note})" if field.note else field.title
