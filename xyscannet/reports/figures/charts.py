"""A radar of metrics (the paper's Figure 1) and histograms of the images' values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xyscannet.errors import ConfigError
from xyscannet.reports.figures import canvas
from xyscannet.reports.grids import number
from xyscannet.reports.results import Column, Evaluation

DISTORTION = ("psnr", "ssim")


def radar(path: Path | str | Sequence[Path | str], evaluations: Sequence[Evaluation]) -> str:
    """Draw one polygon for each evaluation, outward = better, to one file or several, and return the caption.

    Every spoke is the mean of one of `radar_metrics` as a ratio to the best of the evaluations, so that 1 is the best:
    best / value where lower is better, value / best where higher is. Values at or below zero (KID can be) count as 1.

    Raises:
        ConfigError: fewer than two evaluations or three metrics with a mean in each of them; another suffix.
        UnavailableError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    paths = canvas.check_paths(path)
    names = radar_metrics(evaluations)
    if len(evaluations) < 2:
        raise ConfigError("a radar compares two evaluations at least")
    if len(names) < 3:
        raise ConfigError("a radar needs three metrics at least, with a mean of each evaluation")
    columns = [evaluations[0].column(name) for name in names]
    scores = np.array(
        [ratios([e.summaries[c.name].mean for e in evaluations], c) for c in columns]
    ).T  # (E, M)
    centre = _centre(float(scores.min()))
    angles = np.linspace(0, 2 * np.pi, len(columns), endpoint=False)
    lines = -(-len(evaluations) // 2)
    with canvas.page(3.4, 3.15 + 0.17 * lines) as figure:
        height = figure.get_figheight()
        room = (0.17 * lines + 0.1) / height
        axes = figure.add_axes((0.2, room + 0.3 / height, 0.6, 2.35 / height), projection="polar")
        axes.set_theta_offset(np.pi / 2)
        axes.set_theta_direction(-1)
        handles = []
        for index, row in enumerate(scores):
            colour, line, marker = canvas.style(index)
            around = [np.append(angles, angles[:1]), np.append(row, row[:1])]
            handles += axes.plot(
                *around, color=colour, linestyle=line, marker=marker, markersize=3, clip_on=False
            )
            axes.fill(*around, color=colour, alpha=0.06)
        axes.set_ylim(centre, 1)
        rings = np.linspace(centre, 1, 5)[1:]
        axes.set_rgrids(
            rings, [f"{ring:.3g}" for ring in rings], angle=180 / len(columns), size=6, color="0.35"
        )
        axes.set_xticks(angles, [_spoke(column, evaluations) for column in columns])
        axes.grid(color="0.75", linewidth=0.4)
        axes.spines["polar"].set_color("0.6")
        _place_spokes(axes, angles)
        canvas.legend(figure, handles, [evaluation.label for evaluation in evaluations], 2)
        canvas.save(figure, paths)
    titles = ", ".join(column.title for column in columns)
    return (
        f"{titles} of {', '.join(evaluation.label for evaluation in evaluations)}; outward is better. Each spoke is "
        "normalised by its best mean, which is written at its end and lies on the outer ring: best / value where lower "
        f"is better (↓), value / best where higher is (↑). The centre is {centre:.3g}. {canvas.origin(evaluations)}"
    )


def radar_metrics(evaluations: Sequence[Evaluation]) -> list[str]:
    """Metrics with a mean in every evaluation: the perceptual ones if there are three of them, else all."""
    names = [
        column.name
        for column in evaluations[0].columns
        if not column.name.endswith("x1000") and all(_has_mean(e, column.name) for e in evaluations)
    ]
    perceptual = [name for name in names if not name.startswith(DISTORTION)]
    return perceptual if len(perceptual) >= 3 else names


def ratios(means: Sequence[float], column: Column) -> list[float]:
    """Each mean as a ratio to the best one, from 0 to 1."""
    best = max(means) if column.higher_is_better else min(means)
    found = []
    for mean in means:
        if column.higher_is_better:
            found.append(max(mean, 0.0) / best if best > 0 else 1.0)
        else:
            found.append(1.0 if mean <= 0 else max(best, 0.0) / mean)
    return found


def histograms(path: Path | str | Sequence[Path | str], evaluations: Sequence[Evaluation]) -> str:
    """Draw the images' values of every metric, a panel each, to one file or several, and return the caption.

    Raises:
        ConfigError: no metric has a finite value of an image; another suffix.
        UnavailableError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    paths = canvas.check_paths(path)
    columns = {c.name: c for e in evaluations for c in e.columns if not c.of_set}
    values = {name: [_finite(evaluation, name) for evaluation in evaluations] for name in columns}
    shown = [column for name, column in columns.items() if any(map(len, values[name]))]
    if not shown:
        raise ConfigError("no image has a value that could be drawn")
    across = min(len(shown), 3)
    down = -(-len(shown) // across)
    lines = -(-len(evaluations) // 3)
    with canvas.page(
        canvas.WIDTH * across / 3 if across < 3 else canvas.WIDTH, 1.75 * down + 0.17 * lines + 0.1
    ) as figure:
        room = (0.17 * lines + 0.1) / figure.get_figheight()
        figure.set_layout_engine("constrained", rect=(0, room, 1, 1 - room), h_pad=0.04, w_pad=0.04)
        for place, column in enumerate(shown):
            axes = figure.add_subplot(down, across, place + 1)
            handles = _histogram(axes, column, values[column.name])
            if place % across == 0:
                axes.set_ylabel("images")
        canvas.legend(figure, handles, [evaluation.label for evaluation in evaluations], 3)
        canvas.save(figure, paths)
    return (
        f"Values of single images, of {', '.join(evaluation.label for evaluation in evaluations)}; vertical lines are "
        f"means.{_left_out(evaluations, shown)} {canvas.origin(evaluations)}"
    )


def _histogram(axes, column: Column, values: Sequence[np.ndarray]) -> list:
    """The values of each evaluation over common bins; a line in the legend for each."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    everything = np.concatenate(values)
    count = int(np.clip(len(np.histogram_bin_edges(everything, "auto")) - 1, 6, 30))
    edges = np.histogram_bin_edges(everything, count)
    handles = []
    for index, found in enumerate(values):
        colour, line, _ = canvas.style(index)
        if len(found):
            counts = np.histogram(found, edges)[0]
            axes.stairs(counts, edges, fill=True, color=colour, alpha=0.12, linewidth=0)
            axes.stairs(counts, edges, color=colour, linestyle=line, linewidth=1.1)
            axes.axvline(found.mean(), color=colour, linestyle=line, linewidth=0.8)
        handles.append(Line2D([], [], color=colour, linestyle=line))
    arrow = "↑" if column.higher_is_better else "↓"
    axes.set_xlabel(f"{column.title} {arrow}" + (f" ({column.unit})" if column.unit else ""))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    return handles


def _spoke(column: Column, evaluations: Sequence[Evaluation]) -> str:
    means = [evaluation.summaries[column.name].mean for evaluation in evaluations]
    best = max(means) if column.higher_is_better else min(means)
    return f"{column.title} {'↑' if column.higher_is_better else '↓'}\n{number(column.name, best)}"


def _place_spokes(axes, angles: np.ndarray) -> None:
    """Let each spoke's label grow away from the circle."""
    axes.tick_params(axis="x", pad=1)
    for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
        sideways = math.sin(angle)
        label.set_horizontalalignment(
            "center" if abs(sideways) < 0.1 else "left" if sideways > 0 else "right"
        )
        label.set_verticalalignment(
            "bottom" if math.cos(angle) > 0.9 else "top" if math.cos(angle) < -0.9 else "center"
        )


def _centre(low: float) -> float:
    """A round ratio for the centre, so far below the lowest that its polygon keeps an area."""
    if low >= 1:
        return 0.0
    step = 10.0 ** math.floor(math.log10(1 - low))
    return max(0.0, round(math.floor((low - 0.4 * (1 - low)) / step) * step, 12))


def _has_mean(evaluation: Evaluation, name: str) -> bool:
    summary = evaluation.summaries.get(name)
    return summary is not None and summary.mean is not None and math.isfinite(summary.mean)


def _finite(evaluation: Evaluation, name: str) -> np.ndarray:
    values = [image.values.get(name) for image in evaluation.images]
    return np.array([value for value in values if value is not None and math.isfinite(value)], dtype=float)


def _left_out(evaluations: Sequence[Evaluation], columns: Sequence[Column]) -> str:
    """A sentence on the values that have no place in a histogram."""
    told = []
    for evaluation in evaluations:
        for column in columns:
            summary = evaluation.summaries.get(column.name)
            if summary is not None and (summary.infinite or summary.failed):
                told.append(
                    f"{column.title} of {evaluation.label}: {summary.infinite} infinite, {summary.failed} failed"
                )
    return f" Not shown: {'; '.join(told)}." if told else ""
