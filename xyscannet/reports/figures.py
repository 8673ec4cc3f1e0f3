"""Figures of evaluations for print and screen: the qualitative grid (Fig. 5), the radar (Fig. 1), histograms.

Each function writes a file in the format of its suffix (pdf and svg are vectors) and returns its caption. Matplotlib is
imported when a figure is drawn.
"""

from __future__ import annotations

import io
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.reports import tables
from xyscannet.reports.results import Column, Evaluation, ImageResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Read = Callable[[str], np.ndarray]
COLOURS = ("#0b62a8", "#c2571a", "#3b8038", "#8447a6", "#7a6a1f", "#444444")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "+++")  # told apart in grey
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
CROP = 0.18  # side of a zoomed window over the image's shorter side
FONT = 8  # points


def write_all(folder: str | Path, evaluations: Sequence[Evaluation], *, read: Read) -> Iterator[Path]:
    """Every figure that these evaluations allow, each as PDF and PNG, and `captions.md`; yields what was written."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    captions = []
    makers: dict[str, Callable[[Path], str]] = {}
    if _improved(evaluations, 1):
        makers["grid"] = lambda path: qualitative_grid(path, evaluations, read=read)
    makers["histograms"] = lambda path: histograms(path, evaluations)
    if len(_perceptual(evaluations)) >= 3 and len(evaluations) > 1:
        makers["radar"] = lambda path: radar(path, evaluations)
    for name, make in makers.items():
        for suffix in ("pdf", "png"):
            caption = make(folder / f"{name}.{suffix}")
            yield folder / f"{name}.{suffix}"
        captions.append(f"**{name}**: {caption}\n")
    (folder / "captions.md").write_text("\n".join(captions), encoding="utf-8")
    yield folder / "captions.md"


def qualitative_grid(
    path: str | Path,
    evaluations: Sequence[Evaluation],
    *,
    read: Read,
    images: Sequence[str] | None = None,
    crops: dict[str, tuple[int, int, int]] | None = None,
    count: int = 3,
) -> str:
    """Rows of images: blurred with the window framed, then the window blurred, by each method, and sharp.

    Args:
        read: the 8-bit RGB pixels (H, W, 3) of a file.
        images: names; by default `count` that the last method improves most in its first metric, evenly spread.
        crops: left, top and side of the window by image; by default where the last method changed most.

    Raises:
        ConfigError: no image of the set has its restored files.
        InputError: a file cannot be read, or the figure not be written.
    """
    names = list(images or _improved(evaluations, count))
    if not names:
        raise ConfigError("no restored images were kept: the grid has nothing to show")
    rows = []
    for name in names:
        pictures = _pictures(name, evaluations, read)
        window = (crops or {}).get(name) or _window(pictures)
        rows.append((name, pictures, window))
    labels = list(rows[0][1])
    wide = len(labels) + 1
    ratios = [max(1.0, rows[0][1][labels[0]].shape[1] / rows[0][1][labels[0]].shape[0]), *[1.0] * len(labels)]
    figure = _figure(7.0, 7.0 / sum(ratios) * len(rows) * 1.02 + 0.2)
    grid = figure.add_gridspec(len(rows), wide, width_ratios=ratios, wspace=0.03, hspace=0.1)
    for line, (name, pictures, (left, top, side)) in enumerate(rows):
        axes = figure.add_subplot(grid[line, 0])
        axes.imshow(pictures[labels[0]], interpolation="antialiased")
        frame = _patches().Rectangle((left, top), side, side, fill=False, edgecolor="#ffdf3f", linewidth=1.2)
        axes.add_patch(frame)
        axes.set_xlabel(_short(name), fontsize=FONT - 2, labelpad=2)
        _bare(axes)
        cut = {label: image[top : top + side, left : left + side] for label, image in pictures.items()}
        sharp = cut.get("Sharp")
        for place, label in enumerate(labels, start=1):
            axes = figure.add_subplot(grid[line, place])
            if label in cut:
                axes.imshow(cut[label], interpolation="nearest")
                if sharp is not None and label != "Sharp":
                    axes.set_xlabel(f"{_psnr(cut[label], sharp)} dB", fontsize=FONT - 2, labelpad=2)
            if line == 0:
                axes.set_title(_short(label), fontsize=FONT, pad=3)
            _bare(axes)
    _save(figure, Path(path))
    first = evaluations[0]
    return (
        f"Images of {first.dataset} and a window of each; below it the window's PSNR against the sharp image. "
        + _origin(evaluations)
    )


def radar(path: str | Path, evaluations: Sequence[Evaluation], metrics: Sequence[str] | None = None) -> str:
    """Perceptual metrics on as many axes, outwards is better.

    Each axis runs from the worst of these evaluations (0.2) to the best (1). Raises ConfigError for fewer than three
    metrics, or fewer than two evaluations that have them all.
    """
    columns = _perceptual(evaluations)
    if metrics is not None:
        columns = [column for column in columns if column.name in metrics]
    means = [
        (evaluation, [evaluation.summaries[column.name].mean for column in columns])
        for evaluation in evaluations
        if all(column.name in evaluation.summaries for column in columns)
    ]
    means = [(evaluation, values) for evaluation, values in means if None not in values]
    if len(columns) < 3 or len(means) < 2:
        raise ConfigError("a radar needs three perceptual metrics at least, of two evaluations")
    figure = _figure(3.6, 3.9)
    axes = figure.add_subplot(projection="polar")
    angles = np.linspace(0, 2 * math.pi, len(columns), endpoint=False)
    axes.set_theta_offset(math.pi / 2)
    axes.set_theta_direction(-1)
    for index, (evaluation, values) in enumerate(means):
        spread = []
        for place, column in enumerate(columns):
            all_values = [other[place] for _, other in means]
            low, high = min(all_values), max(all_values)
            share = 1.0 if high == low else (values[place] - low) / (high - low)
            spread.append(0.2 + 0.8 * (share if column.higher_is_better or high == low else 1 - share))
        closed = [*spread, spread[0]]
        colour = COLOURS[index % len(COLOURS)]
        around = [*angles, angles[0]]
        axes.plot(
            around,
            closed,
            color=colour,
            linestyle=LINES[index % len(LINES)],
            linewidth=1.5,
            label=_short(evaluation.label),
        )
        axes.fill(around, closed, color=colour, alpha=0.12)
    texts = [
        f"{column.title}\n{' / '.join(tables.number(column.name, values[place]) for _, values in means)}"
        for place, column in enumerate(columns)
    ]
    axes.set_xticks(angles, texts, fontsize=FONT - 1)
    axes.tick_params(axis="x", pad=20)
    axes.set_yticks([0.2, 0.6, 1.0], [])
    axes.set_ylim(0, 1.05)
    axes.spines["polar"].set_color("#bbbbbb")
    axes.grid(color="#cccccc", linewidth=0.6)
    figure.legend(loc="lower center", ncols=3, fontsize=FONT, frameon=False)
    _save(figure, Path(path))
    labels = ", ".join(evaluation.label for evaluation, _ in means)
    return (
        f"Perceptual metrics on {evaluations[0].dataset}; outwards is better. Each axis runs from the worst of "
        f"{labels} (0.2 of the radius) to the best (1); the numbers are their means. " + _origin(evaluations)
    )


def histograms(path: str | Path, evaluations: Sequence[Evaluation]) -> str:
    """The distribution of every metric of images, the methods side by side; a line marks each mean."""
    columns = [column for column in evaluations[-1].columns if not column.of_set]
    across = min(3, len(columns))
    down = math.ceil(len(columns) / across)
    figure = _figure(2.35 * across, 1.85 * down + 0.35)
    grid = figure.add_gridspec(
        down, across, hspace=0.6, wspace=0.35, top=1 - 0.25 / down, bottom=0.28 / down + 0.06
    )
    for place, column in enumerate(columns):
        axes = figure.add_subplot(grid[place // across, place % across])
        series = [_finite(evaluation, column) for evaluation in evaluations]
        known = [values for values in series if len(values)]
        if not known:
            axes.set_visible(False)
            continue
        edges = np.histogram_bin_edges(
            np.concatenate(known), bins=min(20, max(6, int(2 * len(known[0]) ** 0.5)))
        )
        width = (edges[1] - edges[0]) * 0.86 / len(series)
        for index, values in enumerate(series):
            counts, _ = np.histogram(values, edges)
            colour = COLOURS[index % len(COLOURS)]
            axes.bar(
                edges[:-1] + (index + 0.5) * width, counts, width, color=colour, alpha=0.75, linewidth=0.3,
                edgecolor="white", hatch=HATCHES[index % len(HATCHES)], label=_short(evaluations[index].label),
            )  # fmt: skip
            if len(values):
                axes.axvline(values.mean(), color=colour, linestyle=LINES[index % len(LINES)], linewidth=1)
        arrow = "↑" if column.higher_is_better else "↓"
        axes.set_title(f"{column.title} {arrow}", fontsize=FONT)
        axes.tick_params(labelsize=FONT - 2, length=2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.get_major_locator().set_params(integer=True)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=FONT, frameon=False)
    _save(figure, Path(path))
    return f"Values of the {len(evaluations[-1].images)} images; lines mark the means. " + _origin(
        evaluations
    )


def _perceptual(evaluations: Sequence[Evaluation]) -> list[Column]:
    """Columns that all evaluations have, without PSNR, SSIM and repetitions in other units."""
    known = [{column.name for column in evaluation.columns} for evaluation in evaluations]
    return [
        column
        for column in evaluations[-1].columns
        if all(column.name in names for names in known)
        and not column.name.startswith(("psnr", "ssim"))
        and not column.name.endswith("x1000")
    ]


def _improved(evaluations: Sequence[Evaluation], count: int) -> list[str]:
    """Names of images with restored files: the better half by gain over the first evaluation, evenly spread."""
    first, last = evaluations[0], evaluations[-1]
    column = next((column for column in last.columns if not column.of_set), None)
    known = {image.name: image for image in first.images}
    gains = []
    for image in last.images:
        if image.failures or image.restored is None or image.restored == image.blur:
            continue
        gain = 0.0
        if column is not None and first is not last and image.name in known:
            before, after = known[image.name].values.get(column.name), image.values.get(column.name)
            if before is not None and after is not None and math.isfinite(after - before):
                gain = (after - before) * (1 if column.higher_is_better else -1)
        gains.append((-gain, image.name))
    names = [name for _, name in sorted(gains)]
    half = names[: max(count, len(names) // 2)]
    return [half[i * len(half) // min(count, len(half))] for i in range(min(count, len(half)))]


def _pictures(name: str, evaluations: Sequence[Evaluation], read: Read) -> dict[str, np.ndarray]:
    results: dict[str, ImageResult] = {
        e.label: image for e in evaluations for image in e.images if image.name == name
    }
    if not results:
        raise ConfigError(f"there is no image {name}")
    known = next(iter(results.values()))
    files = {"Blurred": known.blur}
    files |= {label: image.restored for label, image in results.items() if image.restored != image.blur}
    files["Sharp"] = known.sharp
    return {label: read(file) for label, file in files.items() if file is not None}


def _window(pictures: dict[str, np.ndarray]) -> tuple[int, int, int]:
    """Where the last method's image differs most from the blurred one."""
    images = [image for label, image in pictures.items() if label != "Sharp"]
    first, last = images[0].astype(np.float32), images[-1].astype(np.float32)
    height, width = first.shape[:2]
    side = max(min(16, height, width), int(CROP * min(height, width)))
    change = (
        np.abs(last - first).mean(2) if first.shape == last.shape else np.abs(np.gradient(first.mean(2))[1])
    )
    total = np.pad(change.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    sums = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    top, left = np.unravel_index(int(sums.argmax()), sums.shape)
    return int(left), int(top), side


def _psnr(image: np.ndarray, sharp: np.ndarray) -> str:
    if image.shape != sharp.shape:
        return "-"
    mse = float(np.square(image.astype(np.float64) - sharp).mean())
    return "∞" if mse == 0 else f"{10 * math.log10(255**2 / mse):.2f}"


def _finite(evaluation: Evaluation, column: Column) -> np.ndarray:
    values = [image.values.get(column.name) for image in evaluation.images]
    return np.array([value for value in values if value is not None and math.isfinite(value)])


def _origin(evaluations: Sequence[Evaluation]) -> str:
    commands = dict.fromkeys(evaluation.command for evaluation in evaluations if evaluation.command)
    return f"Made by: {'; '.join(f'`{command}`' for command in commands)}" if commands else ""


def _short(text: str, most: int = 26) -> str:
    text = text.replace("$", r"\$")
    return text if len(text) <= most else "…" + text[1 - most :]


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnavailableError(
            f'figures need matplotlib: pip install "xyscannet[metrics]" ({error})'
        ) from None
    return Figure(figsize=(width, height), dpi=200)


def _patches() -> Any:
    import matplotlib.patches

    return matplotlib.patches


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    """Whole or not at all; the same figure gives the same bytes."""
    import matplotlib

    suffix = path.suffix.lower().lstrip(".")
    if suffix not in ("pdf", "png", "svg"):
        raise ConfigError(f"{path}: a figure is written as pdf, svg or png")
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(suffix)
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "xyscan", "pdf.fonttype": 42, "svg.fonttype": "none"}):
        figure.savefig(data, format=suffix, bbox_inches="tight", pad_inches=0.03, metadata=metadata)
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.absolute().parent, prefix=f".{path.name}.", delete=False
        ) as file:
            file.write(data.getvalue())
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as failure:
        raise InputError(f"{path}: cannot be written: {failure.strerror or failure}") from None
