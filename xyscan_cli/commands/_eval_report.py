"""What `xyscan eval` says and writes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from xyscan_cli import console, outputs, tables
from xyscan_cli.outputs import Place
from xyscannet.addresses import place_of, stored, stored_folder
from xyscannet.files import write_text

if TYPE_CHECKING:
    from xyscannet.data.datasets import Dataset
    from xyscannet.reports.results import Comparison, Evaluation

LISTED = 5


def print_set(found: Dataset, count: int, protocol: str) -> None:
    split = f", {found.split} split" if found.split else ""
    console.field("set", f"{found.title}{split}, {found.layout}, in {found.root}")
    some = "" if count == len(found.samples) else f" of {len(found.samples)}"
    console.field("images", f"{count}{some}")
    console.field("protocol", protocol)
    for problem in found.problems[:LISTED]:
        console.warn(problem)
    if len(found.problems) > LISTED:
        console.warn(f"and {len(found.problems) - LISTED} more; xyscan data check lists them")


def show(
    evaluations: Sequence[Evaluation], comparison: Comparison | None, paper: bool, as_json: bool
) -> None:
    """The table and its notes on stdout; or the records of `--json`."""
    from xyscannet.reports import tables as grids

    if as_json:
        sys.stdout.write(_json(evaluations, comparison))
        return
    header, rows, notes = grids.terminal_rows(evaluations, paper)
    tables.show(header, rows, right=range(1, len(header)))
    for note in [*notes, *grids.provenance(evaluations)[: len(evaluations[0].columns)]]:
        console.say(note)
    _print_worst(evaluations[-1])
    if comparison is not None:
        header, rows, notes = grids.comparison_rows(comparison, evaluations[-1].columns)
        print()
        tables.show(header, rows, right=[1, 2])
        for note in notes:
            console.say(note)


def _print_worst(evaluation: Evaluation) -> None:
    for column in evaluation.columns:
        worst = evaluation.summaries[column.name].worst
        if worst and not column.of_set and len(evaluation.images) > 1:
            console.say(f"{evaluation.label}, worst {column.title}: {', '.join(worst)}")


def write(
    evaluations: Sequence[Evaluation],
    comparison: Comparison | None,
    paper: bool,
    files: Mapping[str, Place | None],
    figures: Place | None,
    homes: Sequence[Path],
) -> None:
    """The results in each evaluation's folder, and the files that were asked for."""
    from xyscannet.reports import tables as grids
    from xyscannet.reports.results import to_json

    for evaluation, home in zip(evaluations, homes, strict=True):
        write_text(home / "evaluation.json", to_json(evaluation))
    makers = {
        "--json": lambda: _json(evaluations, comparison),
        "--csv": lambda: grids.csv_text(evaluations),
        "--markdown": lambda: grids.markdown(evaluations, paper),
        "--latex": lambda: grids.latex(evaluations, paper),
    }
    for option, make in makers.items():
        if (place := files[option]) is not None and str(place) != "-":
            outputs.put(place, make())
            console.say(f"wrote {place}")
    if (place := files["--report"]) is not None:
        from xyscannet.reports.page import write_page

        with stored(place) as path:
            write_page(path, evaluations, read=_pixels, paper=paper)
        console.say(f"wrote {place}")
    if figures is not None:
        from xyscannet.reports import figures as drawing

        with stored_folder(figures) as home:
            written = [path.relative_to(home) for path in drawing.write_all(home, evaluations, read=_pixels)]
        for name in written:
            console.say(f"wrote {figures / name}")


def homes(folder: Path, labels: Sequence[str]) -> list[Path]:
    """Each label's own folder in that of the run."""
    names = [safe(label) for label in labels]
    alike = Counter(name.lower() for name in names)
    return [
        folder
        / (name if alike[name.lower()] == 1 else f"{name}-{sha256(os.fsencode(label)).hexdigest()[:8]}")
        for name, label in zip(names, labels, strict=True)
    ]


def safe(label: str) -> str:
    """A label as a folder's name."""
    return re.sub(r"[^\w.+-]+", "-", label).strip("-.") or "images"


def print_failures(evaluations: Sequence[Evaluation]) -> bool:
    """Every image that failed, once a reason; whether there was one."""
    lines = [
        f"  {evaluation.label}, {name}: {reason}"
        for evaluation in evaluations
        for image in evaluation.images
        for name, reason in image.failures.items()
    ]
    if lines:
        more = [f"  and {len(lines) - 20} more, in evaluation.json"] if len(lines) > 20 else []
        console.error("\n".join([f"{len(lines)} failed:", *lines[:20], *more]))
    return bool(lines)


def _pixels(path: str):
    """The 8-bit pixels of a file, or of what is at an address."""
    from xyscannet.evaluation.sources import photo_of
    from xyscannet.metrics.pixels import rgb8

    return rgb8(photo_of(place_of(path)).rgb)


def _json(evaluations: Sequence[Evaluation], comparison: Comparison | None) -> str:
    from xyscannet.reports.results import portable, to_json

    lines = [to_json(evaluation, indent=None) for evaluation in evaluations]
    if comparison is not None:
        lines.append(json.dumps({"comparison": portable(asdict(comparison))}, allow_nan=False) + "\n")
    return "".join(lines)
