"""An ablation as plain data, and as the paper's table: each variant's row above the paper's own."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xyscannet.errors import InputError
from xyscannet.reports import grids
from xyscannet.reports import paper as printed
from xyscannet.reports.grids import Grid, Notes, Row, number
from xyscannet.reports.results import Column, portable

FORMAT = 1
_WORDS = {"gopro": "GoPro", "hide": "HIDE", "realblur-j": "RealBlur-J", "rwbi": "RWBI"}
_WORDS |= {name: name.upper() for name in ("psnr", "ssim", "lpips", "niqe", "kid", "fid")}
_DECIMALS = {"parameters (M)": 2, "parameters (K)": 2, "GMACs": 2}
_PRINTED = _DECIMALS | {"training memory (GB)": 2, "inference memory (GB)": 2}


@dataclass(frozen=True)
class Cell:
    """One variant, trained from one seed and measured.

    Attributes:
        values: means over a set's images by column, as "gopro psnr"; None where there is none, with the reason in
            `gaps`.
        images: number of measured images by set.
        problems: images that failed in part or whole.
        failure: why the cell has no values; None where it has.
        network: its configuration.
        settings: what else decides the values, under "training" and "evaluation".
        notes: what computed the values, by column.
        versions, machine, command, date: where the values are from.
    """

    study: str
    variant: str
    seed: int
    network: Mapping[str, Any]
    settings: Mapping[str, Any]
    values: Mapping[str, float | None] = field(default_factory=dict)
    gaps: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)
    problems: Sequence[str] = ()
    failure: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    command: str = ""
    date: str = ""


@dataclass(frozen=True)
class Variant:
    """A row: its label in the paper's table, and what is the same for every seed: parameters, time, memory.

    A time is None where there was too little memory.
    """

    name: str
    label: str
    network: Mapping[str, Any]
    figures: Mapping[str, float | None]


@dataclass(frozen=True)
class Ablation:
    """One of the paper's ablation tables with what was measured here.

    Attributes:
        table: its number in the paper.
        metrics: registry name of the metric in each column of quality, the paper's columns and others.
        seeds: how many each variant should have been trained from.
        higher: registry names of the metrics of which more is better.
        gaps: why a column is empty.
        notes: sentences below the table.
    """

    study: str
    table: int
    variants: Sequence[Variant]
    cells: Sequence[Cell]
    metrics: Mapping[str, str]
    seeds: int
    higher: Sequence[str] = ()
    gaps: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    command: str = ""
    date: str = ""

    def values(self, variant: str, column: str) -> list[float]:
        """What the seeds gave, those without a value left out."""
        found = (cell.values.get(column) for cell in self.cells if cell.variant == variant)
        return [value for value in found if value is not None]


def cell_to_json(cell: Cell) -> str:
    """Standard JSON."""
    return json.dumps(portable({"format": FORMAT, **asdict(cell)}), indent=1, allow_nan=False) + "\n"


def cell_from_json(text: str, source: str | Path) -> Cell:
    """What `cell_to_json` wrote. Raises InputError, naming `source`, for anything else."""
    try:
        data = json.loads(text)
        if data.pop("format") != FORMAT:
            raise InputError(f"{source} was written by another version of xyscannet")
        return Cell(**data)
    except (ValueError, TypeError, KeyError, AttributeError) as failure:
        raise InputError(f"{source} does not hold a cell of an ablation: {failure}") from None


def grid(ablation: Ablation) -> Grid:
    """Every variant's mean and standard deviation over its seeds, and below it the paper's row."""
    table = printed.table(ablation.table)
    others = {name: metric for name, metric in ablation.metrics.items() if name not in table.columns}
    higher = {name: way == "higher" for name, way in table.columns.items()}
    higher |= {name: metric in ablation.higher for name, metric in others.items()}
    columns = [Column(name, _title(name), "", more, "") for name, more in higher.items()]
    made = Grid(columns, [], apart=True)
    notes = Notes(made)
    for column in columns:
        reasons = [ablation.gaps.get(column.name), printed.difference(ablation.metrics.get(column.name, ""))]
        made.signs[column.name] = "".join(notes.sign(reason) for reason in reasons if reason)
    rows = dict(table.rows)
    if "Reference" in rows:
        made.rows.append(_printed(ablation, table, "Reference"))
    for variant in ablation.variants:
        made.rows.append(_measured(ablation, variant, columns, notes))
        if variant.label in rows:
            made.rows.append(_printed(ablation, table, variant.label))
    made.footnotes += ablation.notes
    return made


def _measured(ablation: Ablation, variant: Variant, columns: Sequence[Column], notes: Notes) -> Row:
    row = Row(variant.label, {}, {}, True)
    for column in columns:
        found = ablation.values(variant.name, column.name)
        if found:
            row.values[column.name] = statistics.fmean(found)
            row.texts[column.name] = _text(column.name, found)
        elif (figure := variant.figures.get(column.name)) is not None:
            row.values[column.name] = figure
            row.texts[column.name] = _figure(column.name, figure)
        elif column.name.endswith("time (s)") and column.name in variant.figures:
            row.texts[column.name] = "out of memory"
    cells = [cell for cell in ablation.cells if cell.variant == variant.name]
    whole = sum(cell.failure is None for cell in cells)
    if whole != ablation.seeds:
        row.signs += notes.sign(f"{whole} of {ablation.seeds} seeds")
    if partly := sum(bool(cell.problems) for cell in cells):
        row.signs += notes.sign(f"in {partly} of its cells images failed in part or whole")
    return row


def _printed(ablation: Ablation, table: printed.PaperTable, method: str) -> Row:
    values = dict(zip(table.columns, table.rows[method]))
    texts = {
        name: _figure(name, value, printed=True)
        if name not in ablation.metrics
        else number(_metric(name), value, printed=True)
        for name, value in values.items()
        if value is not None
    }
    return Row(f"paper: {method}", values, texts, False)


def _text(column: str, found: Sequence[float]) -> str:
    """`32.11 ± 0.05`; the mean alone of one value."""
    mean = number(_metric(column), statistics.fmean(found))
    return f"{mean} ± {number(_metric(column), statistics.stdev(found))}" if len(found) > 1 else mean


def _figure(column: str, value: float, printed: bool = False) -> str:
    decimals = (_PRINTED if printed else _DECIMALS).get(column)
    return f"{value:.4g}" if decimals is None or value < 1 else f"{value:.{decimals}f}"


def _metric(column: str) -> str:
    return column.rpartition(" ")[2]


def _title(column: str) -> str:
    return " ".join(_WORDS.get(word, word) for word in column.split(" "))


def to_json(ablation: Ablation) -> str:
    """One line of standard JSON: everything, and under "summary" mean, deviation and count by variant and column."""
    table = printed.table(ablation.table)
    summary = {}
    for variant in ablation.variants:
        paper = dict(zip(table.columns, table.rows.get(variant.label, ())))
        summary[variant.name] = {}
        for column in dict.fromkeys([*table.columns, *ablation.metrics]):
            found = ablation.values(variant.name, column)
            summary[variant.name][column] = {
                "mean": statistics.fmean(found) if found else variant.figures.get(column),
                "deviation": statistics.stdev(found) if len(found) > 1 else None,
                "seeds": len(found),
                "paper": paper.get(column),
            }
    data = {"format": FORMAT, **asdict(ablation), "summary": summary}
    return json.dumps(portable(data), allow_nan=False) + "\n"


def csv_text(ablation: Ablation) -> str:
    """A line for every cell: variant, seed, values, and the variant's own figures; the failure where there is one."""
    figures = list(dict.fromkeys(name for variant in ablation.variants for name in variant.figures))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["study", "variant", "label", "seed", *ablation.metrics, *figures, "failure"])
    variants = {variant.name: variant for variant in ablation.variants}
    for cell in ablation.cells:
        variant = variants[cell.variant]
        values = [cell.values.get(column) for column in ablation.metrics]
        own = [variant.figures.get(name) for name in figures]
        writer.writerow(
            [cell.study, cell.variant, variant.label, cell.seed, *values, *own, cell.failure or ""]
        )
    return text.getvalue()


def markdown(ablation: Ablation) -> str:
    """The table with its footnotes, and where it is from."""
    return grids.markdown(grid(ablation), provenance(ablation))


def latex(ablation: Ablation) -> str:
    """The table for a paper."""
    caption = f"{printed.table(ablation.table).title}."
    return grids.latex(grid(ablation), caption, provenance(ablation))


def provenance(ablation: Ablation) -> list[str]:
    """What computed each metric, on what machine, by which command."""
    computed = {f"{_title(column)}: {note}" for cell in ablation.cells for column, note in cell.notes.items()}
    place = [ablation.machine, ", ".join(f"{k} {v}" for k, v in ablation.versions.items()), ablation.date]
    return [*sorted(computed), "; ".join(filter(None, place)), *filter(None, [ablation.command])]
