"""Evaluations as figures for print (PDF, SVG) and screen (PNG), each with a caption that names its command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from xyscannet.errors import ConfigError
from xyscannet.reports.figures import canvas
from xyscannet.reports.figures.charts import histograms, radar, radar_metrics
from xyscannet.reports.figures.qualitative import Box, Sample, pick_crops, qualitative_grid
from xyscannet.reports.results import Evaluation, ImageResult

SUFFIXES = ".pdf", ".png"

__all__ = [
    "Box",
    "Sample",
    "histograms",
    "pick_crops",
    "qualitative_grid",
    "radar",
    "radar_metrics",
    "samples",
    "write_all",
]


def write_all(
    folder: Path | str,
    evaluations: Sequence[Evaluation],
    read: Callable[[str], np.ndarray],
) -> list[Path]:
    """Write every figure that the evaluations allow, and `captions.txt`, which also says why others are missing.

    Args:
        evaluations: of one set, e.g. the blurred input and one or more networks.
        read: the 8-bit RGB pixels (H, W, 3) of a file.

    Returns:
        The files, `captions.txt` last.

    Raises:
        ConfigError: evaluations of different sets.
        UnavailableError: matplotlib is not installed.
        InputError: the folder cannot be written.
    """
    if len({evaluation.dataset for evaluation in evaluations}) != 1:
        raise ConfigError("figures are of evaluations of one set")
    folder = canvas.folder_of(folder)
    command = evaluations[-1].command
    makers = {
        "qualitative": lambda paths: qualitative_grid(paths, samples(evaluations, read), command=command),
        "radar": lambda paths: radar(paths, evaluations),
        "histograms": lambda paths: histograms(paths, evaluations),
    }
    written: list[Path] = []
    captions: dict[str, str] = {}
    for stem, make in makers.items():
        paths = [folder / f"{stem}{suffix}" for suffix in SUFFIXES]
        try:
            captions[stem] = make(paths)
            written += paths
        except ConfigError as reason:
            captions[stem] = f"Not drawn: {reason}."
    return [*written, canvas.write_captions(folder, captions)]


def samples(
    evaluations: Sequence[Evaluation], read: Callable[[str], np.ndarray], count: int = 3
) -> list[Sample]:
    """Images for a qualitative figure: by the last evaluation's first metric the worst, the best, evenly between.

    Only images whose files are known and that no method failed on; none where restored images were not kept. Raises
    what `read` raises.
    """
    by_name = [{image.name: image for image in evaluation.images} for evaluation in evaluations]
    whole = [name for name in by_name[-1] if all(_whole(images.get(name)) for images in by_name)]
    column = next((column for column in evaluations[-1].columns if not column.of_set), None)
    if column is not None:
        sign = 1 if column.higher_is_better else -1
        whole.sort(key=lambda name: sign * by_name[-1][name].values[column.name])
    places = np.unique(np.linspace(0, len(whole) - 1, min(count, len(whole))).round().astype(int))
    found = []
    for place in places:
        results = [images[whole[place]] for images in by_name]
        last = results[-1]
        alone = len(evaluations) == 1
        methods = {
            evaluation.label: read(result.restored)
            for evaluation, result in zip(evaluations, results, strict=True)
            if alone or result.restored != result.blur
        }
        blurred = None if last.blur is None or last.blur == last.restored else read(last.blur)
        found.append(Sample(whole[place], methods, blurred, None if last.sharp is None else read(last.sharp)))
    return found


def _whole(image: ImageResult | None) -> bool:
    return (
        image is not None
        and image.restored is not None
        and not image.failures
        and all(value is not None for value in image.values.values())
    )
