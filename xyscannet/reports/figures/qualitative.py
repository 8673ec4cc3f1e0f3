"""Whole images with boxes and the boxes' crops beneath, methods side by side: the paper's Figure 5."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xyscannet.errors import ConfigError
from xyscannet.reports.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP, _LABEL, _HEADING, _MARGIN = 0.04, 0.15, 0.2, 0.17  # inches
_BOXES = (("#FFD400", "-"), ("#00D5FF", (0, (3, 1.5))), ("#FF6BD6", (0, (1, 1))))


@dataclass(frozen=True)
class Box:
    """A crop: its top left pixel and size."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: np.ndarray) -> np.ndarray:
        return image[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class Sample:
    """A row: 8-bit RGB images (H, W, 3) of one size. The sharp and the blurred one may be missing."""

    name: str
    methods: Mapping[str, np.ndarray]
    blurred: np.ndarray | None = None
    sharp: np.ndarray | None = None

    def columns(self) -> dict[str, np.ndarray]:
        found = {} if self.blurred is None else {"Blurred": self.blurred}
        found |= self.methods
        return found if self.sharp is None else {**found, "Sharp": self.sharp}


def qualitative_grid(
    path: Path | str | Sequence[Path | str],
    samples: Sequence[Sample],
    *,
    command: str = "",
) -> str:
    """Draw the samples as rows, to one file or several, and return the caption.

    Args:
        command: what made the images.

    Raises:
        ConfigError: no samples, different columns or sizes, another suffix.
        UnavailableError: matplotlib is not installed.
        InputError: the file cannot be written.
    """
    paths = canvas.check_paths(path)
    headings = _headings(samples)
    for sample in samples:
        _check_sizes(sample)
    chosen = [pick_crops(sample) for sample in samples]
    most = max(len(boxes) for boxes in chosen)
    width = (canvas.WIDTH - _MARGIN - _GAP * (len(headings) - 1)) / len(headings)
    heights = [_heights(sample, boxes, width, most) for sample, boxes in zip(samples, chosen, strict=True)]
    with canvas.page(canvas.WIDTH, _HEADING + sum(map(sum, heights))) as figure:
        top = figure.get_figheight()
        for index, heading in enumerate(headings):
            place = (_MARGIN + index * (width + _GAP) + width / 2) / canvas.WIDTH
            text, size = canvas.fitted(heading, int(width * 13))
            figure.text(place, 1 - 0.06 / top, text, ha="center", va="top", size=size)
        bottom = top - _HEADING
        for sample, boxes, height in zip(samples, chosen, heights, strict=True):
            _row(figure, sample, boxes, width, height, bottom, most)
            bottom -= sum(height)
        canvas.save(figure, paths)
    return _caption(samples, command)


def pick_crops(sample: Sample, count: int = 2) -> list[Box]:
    """Up to `count` square boxes that do not overlap, where the methods' pixels vary most; the first of equals.

    With one method only, where it differs most from the blurred image. Their side is a sixth of the image's shorter
    one, and at least 16 pixels.
    """
    compared = list(sample.methods.values())
    if len(compared) == 1:
        compared += [image for image in (sample.blurred, sample.sharp) if image is not None][:1]
    height, width = compared[0].shape[:2]
    side = min(max(16, min(height, width) // 6), height, width)
    spread = np.stack([image.astype(np.float32) for image in compared]).var(axis=0).sum(axis=2)  # (H, W)
    sums = np.pad(spread.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    score = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    found: list[Box] = []
    while len(found) < count and np.isfinite(score).any():
        top, left = map(int, np.unravel_index(np.argmax(score), score.shape))
        found.append(Box(top, left, side, side))
        score[max(0, top - side + 1) : top + side, max(0, left - side + 1) : left + side] = -np.inf
    return found


def psnr(image: np.ndarray, sharp: np.ndarray) -> float:
    """PSNR of 8-bit images in dB; infinite for equal ones."""
    error = np.square(image.astype(np.float64) - sharp).mean()
    return math.inf if error == 0 else float(10 * np.log10(255.0**2 / error))


def _headings(samples: Sequence[Sample]) -> list[str]:
    if not samples or not samples[0].methods:
        raise ConfigError("a qualitative figure needs a sample with a method at least")
    headings = list(samples[0].columns())
    for sample in samples:
        if list(sample.columns()) != headings:
            raise ConfigError(f"{sample.name} has other columns than {samples[0].name}")
    return headings


def _check_sizes(sample: Sample) -> None:
    sizes = {heading: image.shape[:2] for heading, image in sample.columns().items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{heading} {width}x{height}" for heading, (height, width) in sizes.items())
        raise ConfigError(f"{sample.name}: images of different sizes: {told}")


def _heights(
    sample: Sample, boxes: Sequence[Box], width: float, most: int
) -> tuple[float, float, float, float]:
    """Inches of the whole image, the crops, their labels and the space under a row."""
    height, pixels = next(iter(sample.methods.values())).shape[:2]
    side = (width - _GAP * (most - 1)) / max(most, 1)
    crops = max((side * box.height / box.width for box in boxes), default=0.0)
    return width * height / pixels + _GAP, crops, _LABEL if sample.sharp is not None else _GAP, _GAP


def _row(
    figure: Figure,
    sample: Sample,
    boxes: Sequence[Box],
    width: float,
    heights: tuple[float, float, float, float],
    top: float,
    most: int,
) -> None:
    """Draw a sample with its upper edge at `top` inches."""
    whole, crop, label, _ = heights
    columns = sample.columns()
    measured = [heading for heading in columns if heading != "Sharp"] if sample.sharp is not None else []
    side = (width - _GAP * (most - 1)) / max(most, 1)
    best = {
        index: max(psnr(box.of(columns[heading]), box.of(sample.sharp)) for heading in measured)
        for index, box in enumerate(boxes)
        if measured
    }
    middle = (top - (whole + crop) / 2) / figure.get_figheight()
    name = canvas.shortened(sample.name, int((whole + crop) * 15))
    figure.text(0.09 / canvas.WIDTH, middle, name, rotation=90, ha="center", va="center", size=6.5)
    for number, (heading, image) in enumerate(columns.items()):
        left = _MARGIN + number * (width + _GAP)
        axes = _axes(figure, left, top - whole + _GAP, width, whole - _GAP)
        axes.imshow(image)
        for index, box in enumerate(boxes):
            _outline(axes, box, index)
            place = left + index * (side + _GAP)
            height = side * box.height / box.width
            small = _axes(figure, place, top - whole - height, side, height)
            small.imshow(box.of(image))
            colour, line = _BOXES[index % len(_BOXES)]
            for spine in small.spines.values():
                spine.set(visible=True, color=colour, linestyle=line, linewidth=1.2)
            if not measured:
                continue
            if heading in measured:
                value = psnr(box.of(image), box.of(sample.sharp))
                text = "∞" if math.isinf(value) else f"{value:.2f}"
                weight = "bold" if value == best[index] else "normal"
            else:
                text, weight = "PSNR (dB)" if side > 0.6 else "dB", "normal"
            y = (top - whole - crop - label / 2) / figure.get_figheight()
            figure.text(
                (place + side / 2) / canvas.WIDTH, y, text, ha="center", va="center", size=7, weight=weight
            )


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes without ticks and frame, placed in inches from the lower left corner."""
    whole = figure.get_figheight()
    axes = figure.add_axes((left / canvas.WIDTH, bottom / whole, width / canvas.WIDTH, height / whole))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return axes


def _outline(axes: Axes, box: Box, index: int) -> None:
    """A box on a whole image: a coloured line over a black one, seen on light and dark ground."""
    from matplotlib.patches import Rectangle

    colour, line = _BOXES[index % len(_BOXES)]
    corner = (box.left - 0.5, box.top - 0.5)
    for given in (
        {"color": "black", "linewidth": 1.8},
        {"color": colour, "linewidth": 1.0, "linestyle": line},
    ):
        axes.add_patch(Rectangle(corner, box.width, box.height, fill=False, **given))


def _caption(samples: Sequence[Sample], command: str) -> str:
    methods = list(samples[0].methods)
    names = ", ".join(sample.name for sample in samples)
    text = f"Qualitative comparison of {', '.join(methods)}. From top to bottom: {names}."
    text += " Beneath each image are the crops that its boxes mark, the solid box's first."
    if samples[0].sharp is not None:
        text += " Numbers: PSNR of the crop in dB against the sharp image, 8-bit RGB, without alignment; best in bold."
    where = "the methods' pixels vary most" if len(methods) > 1 else "the method changes most"
    text += f" Crops are where {where}, not picked by eye."
    return text + (f" Made with: {command}" if command else "")
