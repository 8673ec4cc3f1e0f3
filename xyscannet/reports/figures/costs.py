"""What networks cost: time and memory over the size of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xyscannet.errors import ConfigError
from xyscannet.reports.figures import canvas


@dataclass(frozen=True)
class Cost:
    """What an image of a size took; None where it was not measured, or there was too little memory."""

    megapixels: float
    seconds: float | None
    bytes: int | None


def cost_curves(
    path: Path | str | Sequence[Path | str],
    costs: dict[str, Sequence[Cost]],
    *,
    what: str = "a forward",
    where: str = "",
    command: str = "",
) -> str:
    """Draw time and peak memory over megapixels, a line for each network, to one file or several; return the caption.

    All axes are logarithmic: costs that grow with the number of pixels are straight lines of slope 1 (grey). The
    panel of memory is left out where none was measured.

    Args:
        costs: by the networks' labels.
        what: what took that time.
        where: the machine, for the caption.

    Raises:
        ConfigError: nothing has a time; another suffix.
        UnavailableError: matplotlib is not installed.
        InputError: a file cannot be written.
    """
    paths = canvas.check_paths(path)
    panels = {
        "time (s)": {
            label: [(cost.megapixels, cost.seconds) for cost in given if cost.seconds]
            for label, given in costs.items()
        },
        "peak memory (GiB)": {
            label: [(cost.megapixels, cost.bytes / 2**30) for cost in given if cost.bytes]
            for label, given in costs.items()
        },
    }
    panels = {title: lines for title, lines in panels.items() if any(lines.values())}
    if "time (s)" not in panels:
        raise ConfigError("no time was measured that could be drawn")
    rows = -(-len(costs) // 3)
    room = 0.17 * rows + 0.08
    with canvas.page(canvas.WIDTH if len(panels) > 1 else 3.6, 2.7 + room) as figure:
        figure.set_layout_engine("constrained", rect=(0, room / (2.7 + room), 1, 2.7 / (2.7 + room)))
        for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
            handles = _panel(axes, title, lines)
        canvas.legend(figure, handles, list(costs), 3)
        canvas.save(figure, paths)
    drawn = " and ".join(title.partition(" (")[0] for title in panels)
    text = f"{drawn.capitalize()} of {what} over megapixels, all axes logarithmic, of {', '.join(costs)}."
    if any(len(line) > 1 for line in panels["time (s)"].values()):
        text += " Grey: in proportion to the pixels."
    short = [
        f"{label} at {cost.megapixels:.3g} megapixels"
        for label, given in costs.items()
        for cost in given
        if cost.seconds is None
    ]
    if short:
        text += f" Out of memory: {', '.join(short)}."
    return text + (f" {where}." if where else "") + (f" Made with: {command}" if command else "")


def _panel(axes, title: str, lines: dict[str, list[tuple[float, float]]]) -> list:
    """Draw the lines on logarithmic axes; a handle of each for the legend."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    handles = []
    for index, points in enumerate(lines.values()):
        colour, line, marker = canvas.style(index)
        x, y = zip(*sorted(points)) if points else ((), ())
        handles += axes.plot(x, y, color=colour, linestyle=line, marker=marker, markersize=4)
    axes.set_xlabel("megapixels")
    axes.set_ylabel(title)
    axes.margins(0.12)
    for axis in (axes.xaxis, axes.yaxis):
        canvas.logarithmic(axis)
    axes.grid(color="0.9", linewidth=0.4)
    axes.spines[["top", "right"]].set_visible(False)
    _proportional(axes, [point for points in lines.values() for point in points])
    return handles


def _proportional(axes, points: list[tuple[float, float]]) -> None:
    """A grey line of slope 1 through the cheapest point, without moving the limits."""
    if len({x for x, _ in points}) < 2:
        return
    limits = axes.get_xlim(), axes.get_ylim()
    x, y = min(points)
    ends = limits[0]
    axes.plot(ends, [y * end / x for end in ends], color="0.8", linewidth=2.5, zorder=0)
    axes.set(xlim=limits[0], ylim=limits[1])
