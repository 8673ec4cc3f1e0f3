"""The measured quality of one set of restored images, as plain data: what tables, figures and pages are made from."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xyscannet.errors import InputError

FORMAT = 1  # of the JSON file; a change that older readers would misread raises it


@dataclass(frozen=True)
class Column:
    """A metric: its registry name, heading, unit ("dB" or ""), direction, and what computed it (package, settings).

    `of_set` marks metrics with one value for the whole set instead of one per image (FID, KID).
    `median_seconds` is what it took of an image; the first one's holds a package's start too.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    note: str
    of_set: bool = False
    median_seconds: float | None = None


@dataclass(frozen=True)
class ImageResult:
    """One image: its name in the set, its values by metric name, and its files.

    A value is None where the metric failed on this image; `failures` says why, by metric name, or under "image"
    where nothing could be computed. PSNR of equal images is infinite. `restored_seconds` is the network's time.
    """

    name: str
    values: Mapping[str, float | None]
    blur: str | None = None
    restored: str | None = None
    sharp: str | None = None
    height: int | None = None
    width: int | None = None
    restored_seconds: float | None = None
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """One metric over the set.

    `mean` and `median` are over the finite values, `count` of them; `infinite` counts values of identical images,
    `failed` those that are missing. `low` and `high` bound the mean's bootstrap 95 % interval; None for fewer than
    two values and for metrics of sets. `worst` names up to five images, the worst first.
    """

    mean: float | None
    median: float | None
    low: float | None
    high: float | None
    count: int
    infinite: int = 0
    failed: int = 0
    worst: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """One method on one set of images.

    Attributes:
        label: what made the restored images: a network's name, weights file, folder, or "blurred input".
        dataset: "gopro", "hide", "realblur-j", "realblur-r", "rwbi", or the name of a folder.
        protocol: "plain" or "realblur" (PSNR and SSIM under RealBlur's alignment).
        columns, images, summaries: metrics in order, images in order of their names, a summary by metric name.
        expected: number of images that the dataset's test split has by its authors; None for other folders.
        settings: whatever else decides the numbers: network, weights and their hash, data type, scan backend, tiling.
        versions, machine, command, date: where the numbers are from; `date` is ISO 8601 in UTC.
    """

    label: str
    dataset: str
    protocol: str
    columns: tuple[Column, ...]
    images: tuple[ImageResult, ...]
    summaries: Mapping[str, Summary]
    expected: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    command: str = ""
    date: str = ""

    def column(self, name: str) -> Column:
        """The metric of that name. Raises KeyError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


@dataclass(frozen=True)
class Comparison:
    """Image-by-image differences of two evaluations, `second` minus `first`, over the images both have.

    `differences` holds, by metric name, the name and difference of every image; `summaries` their mean, median and
    interval (`worst` names the images where the second loses most); `wins` on how many the second is better.
    """

    first: str
    second: str
    differences: Mapping[str, Mapping[str, float]]
    summaries: Mapping[str, Summary]
    wins: Mapping[str, int]


def to_json(evaluation: Evaluation, indent: int | None = 1) -> str:
    """Standard JSON, on one line if `indent` is None: an infinite value is the string "inf"; NaN cannot occur."""
    data = {"format": FORMAT, **asdict(evaluation)}
    return json.dumps(portable(data), indent=indent, allow_nan=False) + "\n"


def from_json(text: str, source: str | Path = "the text") -> Evaluation:
    """What `to_json` wrote. Raises InputError, naming `source`, for anything else."""
    try:
        data = json.loads(text)
        if data.pop("format") != FORMAT:
            raise InputError(f"{source} was written by another version of xyscannet")
        columns = tuple(Column(**column) for column in data.pop("columns"))
        images = tuple(map(result_from, data.pop("images")))
        summaries = {
            name: Summary(**{**summary, "worst": tuple(summary["worst"])})
            for name, summary in data.pop("summaries").items()
        }
        return Evaluation(columns=columns, images=images, summaries=summaries, **data)
    except (ValueError, TypeError, KeyError, AttributeError) as failure:
        raise InputError(f"{source} does not hold an evaluation: {failure}") from None


def result_from(image: Mapping[str, Any]) -> ImageResult:
    """An image's result from plain values. Raises TypeError or KeyError for others."""
    return ImageResult(**{**image, "values": {k: _number(v) for k, v in image["values"].items()}})


def portable(value: Any) -> Any:
    """The value with infinities as strings, for standard JSON."""
    if isinstance(value, Mapping):
        return {key: portable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [portable(inner) for inner in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, str) else value
