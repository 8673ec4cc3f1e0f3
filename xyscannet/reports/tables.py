"""Evaluations as tables: for the terminal, Markdown, LaTeX and CSV, with the paper's rows around the measured ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from xyscannet.errors import ConfigError
from xyscannet.reports import grids
from xyscannet.reports import paper as printed
from xyscannet.reports.grids import Grid, Notes, Row, number, text_rows
from xyscannet.reports.results import Column, Comparison, Evaluation, Summary


def grid(evaluations: Sequence[Evaluation], paper: bool = True) -> Grid:
    """The means of evaluations of one set, among the paper's rows in the order of the first metric, the best last.

    Raises ConfigError for evaluations of different sets.
    """
    if len({evaluation.dataset for evaluation in evaluations}) != 1:
        raise ConfigError("a table holds evaluations of one set")
    columns: dict[str, Column] = {}
    for evaluation in evaluations:
        for column in evaluation.columns:
            columns.setdefault(column.name, column)
    made = Grid(list(columns.values()), [], unlike=printed.UNLIKE)
    notes = Notes(made)
    for evaluation in evaluations:
        texts = {name: value_text(name, summary) for name, summary in evaluation.summaries.items()}
        values = {name: summary.mean for name, summary in evaluation.summaries.items()}
        row = Row(evaluation.label, values, texts, True)
        count = len(evaluation.images)
        failed = sum(bool(image.failures) for image in evaluation.images)
        if evaluation.expected not in (None, count):
            row.signs += notes.sign(f"{count} of the set's {evaluation.expected} images")
        if failed:
            row.signs += notes.sign(f"{failed} of {count} images failed in part or whole")
        infinite = max((summary.infinite for summary in evaluation.summaries.values()), default=0)
        if infinite:
            row.signs += notes.sign(f"means leave out {infinite} images equal to their sharp partner")
        made.rows.append(row)
    dataset = evaluations[0].dataset
    rows = printed.rows_for(dataset, list(columns)) if paper else []
    for held in rows:
        texts = {n: "-" if v is None else number(n, v, printed=True) for n, v in held.values.items()}
        row = Row(held.method, dict(held.values), texts, False)
        row.signs += notes.sign(held.remark) if held.remark else ""
        made.rows.append(row)
    if rows:
        for name in columns:
            if difference := printed.difference(name):
                made.signs[name] = notes.sign(difference)
        _sort(made)
        made.footnotes.append(f"Rows without an interval: {printed.source(dataset)}, as printed.")
    return made


def value_text(name: str, summary: Summary) -> str:
    """`28.91 [28.71, 29.10]`: the mean and its interval."""
    if summary.mean is None:
        return "∞" if summary.infinite else "-"
    text = number(name, summary.mean)
    if summary.low is None or summary.high is None:
        return text
    return f"{text} [{number(name, summary.low)}, {number(name, summary.high)}]"


def terminal_rows(
    evaluations: Sequence[Evaluation], paper: bool = True
) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows and footnotes."""
    return text_rows(grid(evaluations, paper))


def markdown(evaluations: Sequence[Evaluation], paper: bool = True) -> str:
    """A table with the best value of each column bold and the second underlined, footnotes, and where it is from."""
    return grids.markdown(grid(evaluations, paper), provenance(evaluations))


def latex(evaluations: Sequence[Evaluation], paper: bool = True) -> str:
    """A `table` with booktabs' rules; the best value of each column bold, the second underlined."""
    caption = f"{evaluations[0].dataset}, protocol {evaluations[0].protocol}."
    return grids.latex(grid(evaluations, paper), caption, provenance(evaluations))


def csv_text(evaluations: Sequence[Evaluation]) -> str:
    """A line for every image of every evaluation: label, set, image, size, seconds, values, failures."""
    names = list(dict.fromkeys(c.name for e in evaluations for c in e.columns if not c.of_set))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["label", "dataset", "image", "height", "width", "restored_seconds", *names, "failures"])
    for evaluation in evaluations:
        for image in evaluation.images:
            values = [image.values.get(name) for name in names]
            failures = "; ".join(f"{name}: {reason}" for name, reason in image.failures.items())
            known = [image.height, image.width, image.restored_seconds]
            writer.writerow([evaluation.label, evaluation.dataset, image.name, *known, *values, failures])
    return text.getvalue()


def comparison_rows(
    comparison: Comparison, columns: Sequence[Column]
) -> tuple[list[str], list[list[str]], list[str]]:
    """Header, rows and footnotes of image-by-image differences, `second` minus `first`, a line for each metric."""
    header = ["metric", "difference", "median", "better on", "loses most on"]
    rows = []
    for column in columns:
        summary = comparison.summaries.get(column.name)
        if summary is None:
            continue
        median = "-" if summary.median is None else number(column.name, summary.median)
        wins = f"{comparison.wins[column.name]} of {summary.count}"
        rows.append(
            [column.title, value_text(column.name, summary), median, wins, ", ".join(summary.worst[:3])]
        )
    return (
        header,
        rows,
        [f"{comparison.second} minus {comparison.first}, image by image; 95 % interval of the mean"],
    )


def provenance(evaluations: Sequence[Evaluation]) -> list[str]:
    """What computed each metric, how long it took, and where each evaluation is from."""
    notes = []
    for column in evaluations[0].columns:
        seconds = "" if column.median_seconds is None else f"; {column.median_seconds:.3g} s an image"
        notes.append(f"{column.title}: {column.note}{seconds}")
    for evaluation in evaluations:
        times = [i.restored_seconds for i in evaluation.images if i.restored_seconds is not None]
        speed = f", {sum(times) / len(times):.3g} s an image to restore" if times else ""
        made = f"{evaluation.label}: {len(evaluation.images)} images{speed}"
        more = [
            evaluation.machine,
            ", ".join(f"{k} {v}" for k, v in evaluation.versions.items()),
            evaluation.date,
        ]
        notes.append("; ".join([made, *filter(None, more)]))
    if evaluations[0].command:
        notes.append(evaluations[0].command)
    return notes


def _sort(made: Grid) -> None:
    """By the first column that most rows have a value of, on one scale, the best last; rows without one first."""
    columns = [column for column in made.columns if column.name not in made.unlike]
    if not columns:
        return
    column = max(columns, key=lambda c: sum(row.values.get(c.name) is not None for row in made.rows))

    def place(row: Row) -> tuple[bool, bool, float]:
        value = row.values.get(column.name)
        if value is None:
            return False, False, 0.0
        return row.label == "Ground truth", True, value if column.higher_is_better else -value

    made.rows.sort(key=place)
