"""The paper's tables as data, and its rows for a set of images that was measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

# Registry names -> the paper's column, and what is not known to be the same.
_COLUMNS = {
    "psnr": ("psnr", None),
    "ssim": ("ssim", None),
    "lpips-alex": ("lpips", "the paper does not say which backbone its LPIPS has"),
    "lpips-vgg": ("lpips", "the paper does not say which backbone its LPIPS has"),
    "st-lpips": ("st-lpips", "the paper does not say which backbone its ST-LPIPS has"),
    "st-lpips-vgg": ("st-lpips", "the paper does not say which backbone its ST-LPIPS has"),
    "niqe": ("niqe", "the paper does not say which NIQE it took: MATLAB's and the original's numbers differ"),
    "fid": ("fid", "the paper's FID is normalised to [0, 1] by a rule that is not given: not comparable"),
    "kid": ("kid", "the paper's KID is normalised to [0, 1] by a rule that is not given: not comparable"),
}
UNLIKE = frozenset({"fid", "kid"})
"""Registry names of the metrics whose values in the paper are of another scale."""
_TABLES = {"gopro": 1, "hide": 2, "rwbi": 3, "realblur-j": 4, "realblur-r": 4}
_ORIGINS = {
    "reported": "as that method's own paper reports it",
    "images": "measured by the paper on images from that method's authors",
}


@dataclass(frozen=True)
class PaperTable:
    """A table as printed: columns with "higher" or "lower", and values (None where there is none) by method."""

    number: int
    title: str
    columns: dict[str, str]
    rows: dict[str, tuple[float | None, ...]]
    origins: dict[str, str]
    note: str = ""


@dataclass(frozen=True)
class PaperRow:
    """A method's values by registry name, as far as the paper has them, and what is to be said of the row."""

    method: str
    values: dict[str, float | None]
    remark: str | None = None


@cache
def table(number: int) -> PaperTable:
    """Table 1 to 8. Raises KeyError for another number."""
    held = yaml.safe_load(Path(__file__).with_name("paper.yaml").read_text(encoding="utf-8"))[number]
    return PaperTable(
        number=number,
        title=held["title"],
        columns=held["columns"],
        rows={row["method"]: tuple(row["values"]) for row in held["rows"]},
        origins={row["method"]: _ORIGINS[row["origin"]] for row in held["rows"] if "origin" in row},
        note=held.get("note", ""),
    )


def rows_for(dataset: str, metrics: Sequence[str]) -> list[PaperRow]:
    """The methods that the paper measured on this set, in its order, with those of `metrics` that it has.

    Empty for sets and metrics that are not in Tables 1-4.
    """
    if dataset not in _TABLES:
        return []
    held = table(_TABLES[dataset])
    columns = list(held.columns)
    prefix = f"{dataset} " if held.number == 4 else ""
    places = {
        metric: columns.index(prefix + _COLUMNS[metric][0])
        for metric in metrics
        if metric in _COLUMNS and prefix + _COLUMNS[metric][0] in columns
    }
    if not places:
        return []
    rows = []
    for method, values in held.rows.items():
        found = {metric: values[place] for metric, place in places.items()}
        if any(value is not None for value in found.values()):
            rows.append(PaperRow(method, found, held.origins.get(method)))
    return rows


def difference(metric: str) -> str | None:
    """What may make the paper's numbers for a metric others than ours; None where nothing is known."""
    return _COLUMNS[metric][1] if metric in _COLUMNS else None


def source(dataset: str) -> str:
    """The table that `rows_for` reads, for captions."""
    return f"Table {_TABLES[dataset]} of the paper"
