"""What `xyscan bench` prints and writes: the columns of its tables, and its files."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xyscan_cli import console
from xyscan_cli.arguments import labels
from xyscannet.reports import grids
from xyscannet.reports.figures.costs import Cost, cost_curves

if TYPE_CHECKING:
    from xyscannet.analysis.bench import Result
    from xyscannet.analysis.cases import Case
    from xyscannet.analysis.operators import OperatorResult
    from xyscannet.analysis.trace import Spent, Trace

NETWORKS: dict[str, Callable[[Result], str | None]] = {
    "form": lambda r: r.case.form,
    "size": lambda r: f"{r.case.height}x{r.case.width}" + (f"x{r.case.batch}" if r.case.batch > 1 else ""),
    "pass": lambda r: "step" if r.case.train else "forward",
    "dtype": lambda r: r.case.dtype,
    "scan": lambda r: r.case.scan,
    "M params": lambda r: _figure(r.parameters, ".2f", 1e6),
    "GMACs": lambda r: _figure(r.gmacs, ".1f"),
    "G scan": lambda r: _figure(r.scan_updates or None, ".2f", 1e9),
    "ms": lambda r: r.failure or f"{r.seconds * 1e3:.1f}",
    "x time": lambda r: _figure(r.time_ratio, ".2f"),
    "img/s": lambda r: _figure(r.images_per_second, ".3g"),
    "MP/s": lambda r: _figure(r.megapixels_per_second, ".3f"),
    "GFLOP/s": lambda r: _figure(r.gflops, ".1f"),
    "peak MiB": lambda r: _figure(r.peak_bytes, ".0f", 2**20),
    "x memory": lambda r: _figure(r.memory_ratio, ".2f"),
    "scan ms": lambda r: _figure(r.scan_seconds, ".1f", 1e-3),
    "scan G/s": lambda r: _figure(r.scan_rate, ".2f", 1e9),
    "max error": lambda r: _figure(r.max_error, ".1e"),
    "PSNR dB": lambda r: _figure(r.psnr, ".1f"),
    "gradient error": lambda r: _figure(r.gradient_error, ".1e"),
}
OPERATORS: dict[str, Callable[[OperatorResult], str | None]] = {
    "operator": lambda r: r.case.operator,
    "size": lambda r: f"{r.case.height}x{r.case.width}" + (f"x{r.case.batch}" if r.case.batch > 1 else ""),
    "dtype": lambda r: r.case.dtype,
    "pass": lambda r: "both" if r.case.train else "forward",
    "backend": lambda r: r.case.backend,
    "us": lambda r: "out of memory" if r.seconds is None else f"{r.seconds * 1e6:.1f}",
    "x time": lambda r: _figure(r.time_ratio, ".2f"),
    "MB": lambda r: _figure(r.bytes, ".2f", 1e6),
    "GB/s": lambda r: _figure(r.rate, ".1f", 1e9),
    "% of copy": lambda r: _figure(r.share, ".1f", 0.01),
}
WORDS = {"network", "form", "size", "pass", "dtype", "scan", "operator", "backend"}  # columns without figures


@dataclass(frozen=True)
class Sheet:
    """A table, what it was made from (a flat record a row), and what is said below it."""

    header: list[str]
    rows: list[list[str]]
    records: list[dict[str, Any]]
    notes: tuple[str, ...] = ()

    @property
    def figures(self) -> list[int]:
        """Numbers of the columns that hold figures."""
        return [index for index, title in enumerate(self.header) if title not in WORDS]


def networks(results: Sequence[Result]) -> Sheet:
    notes = []
    if any(result.weights == "random" for result in results):
        notes.append("networks without embedded weights ran with random ones")
    if any(result.case.scan == "none" for result in results):
        notes.append("networks of other projects ran as their authors wrote them, with the padding they need")
    names = _names(results)
    columns = {"network": lambda r: names[r.case.model], **NETWORKS}
    if len({result.case.train for result in results}) == 1:
        del columns["pass"]
    return Sheet(*_table(results, columns), list(map(_plain, results)), tuple(notes))


def costs(results: Sequence[Result]) -> dict[str, list[Cost]]:
    """What is drawn of the results: a line for each network, and for each form, type and scan where it has several."""
    lines: dict[Case, list[Cost]] = {}
    for result in results:
        case = result.case
        cost = Cost(case.batch * case.height * case.width / 1e6, result.seconds, result.peak_bytes)
        lines.setdefault(dataclasses.replace(case, height=0, width=0), []).append(cost)
    pairs = list(itertools.combinations(lines, 2))
    same = [(one, other) for one, other in pairs if (one.model, one.train) == (other.model, other.train)]
    varying = [
        key for key in ("form", "dtype", "scan") if any(getattr(a, key) != getattr(b, key) for a, b in same)
    ]
    names = _names(results)
    both = len({case.train for case in lines}) > 1

    def label(case: Case) -> str:
        passed = ["step" if case.train else "forward"] if both else []
        return " ".join([names[case.model], *(getattr(case, key) for key in varying), *passed])

    return {label(case): costs for case, costs in lines.items()}


def operators(results: Sequence[OperatorResult]) -> Sheet:
    return Sheet(*_table(results, OPERATORS), list(map(_plain, results)))


def traced(trace: Trace) -> Sheet:
    columns: dict[str, Callable[[Spent], str | None]] = {
        "operator": lambda s: s.operator,
        "calls": lambda s: str(s.calls),
        "ms": lambda s: _figure(s.seconds, ".2f", 1e-3),
        "% of time": lambda s: _figure(s.seconds / whole, ".1f", 0.01) if whole else None,
        "MB": lambda s: _figure(s.bytes, ".1f", 1e6),
        "GB/s": lambda s: _figure(s.bytes / s.seconds, ".1f", 1e9) if s.seconds else None,
        "% of copy": lambda s: (
            _figure(s.bytes / s.seconds / trace.bandwidth, ".1f", 0.01) if s.seconds else None
        ),
    }
    whole = sum(spent.seconds for spent in trace.operators)
    case = trace.case
    notes = (
        f"{Path(case.model).name}, {case.form}, {case.height}x{case.width}, {case.dtype}, {case.scan}: "
        f"{trace.seconds * 1e3:.2f} ms; its operators take {whole * 1e3:.2f} ms in the trace",
        f"{trace.bytes / 1e9:.2f} GB of inputs and outputs; a copy at {trace.bandwidth / 1e9:.0f} GB/s moves them in "
        f"{trace.floor * 1e3:.2f} ms, 1/{trace.seconds / trace.floor:.1f} of the time",
    )
    common = dataclasses.asdict(case) | {"call_seconds": trace.seconds, "bandwidth": trace.bandwidth}
    records = [{"case": common, **dataclasses.asdict(spent)} for spent in trace.operators]
    return Sheet(*_table(trace.operators, columns), records, notes)


def _names(results: Sequence[Result]) -> dict[str, str]:
    return labels(list(dict.fromkeys(result.case.model for result in results)))


def _plain(result: Result | OperatorResult) -> dict[str, Any]:
    return console.finite(dataclasses.asdict(result))


def _figure(value: float | None, form: str, unit: float = 1) -> str | None:
    return None if value is None else format(value / unit, form)


def _table(
    results: Sequence[Any], columns: Mapping[str, Callable[[Any], str | None]]
) -> tuple[list[str], list[list[str]]]:
    """Header and rows; without the columns that no result has a figure for."""
    cells = {title: [make(result) for result in results] for title, make in columns.items()}
    kept = {title: column for title, column in cells.items() if any(cell is not None for cell in column)}
    return list(kept), [[cell or "-" for cell in row] for row in zip(*kept.values(), strict=True)]


def draw(paths: Sequence[Path], results: Sequence[Result], machine: dict[str, Any], command: str) -> str:
    """Draw what the networks cost to every path; the caption."""
    cases = [result.case for result in results]
    trained = {case.train for case in cases}
    passes = [words for train, words in ((False, "a forward"), (True, "a training step")) if train in trained]
    dtypes = " and ".join(dict.fromkeys(case.dtype for case in cases))
    batch = cases[0].batch
    what = f"{' or '.join(passes)}, {batch} image{'s' * (batch > 1)} in {dtypes}"
    return cost_curves(paths, costs(results), what=what, where=_place(machine), command=command)


def json_text(sheet: Sheet, machine: dict[str, Any], command: str) -> str:
    return json.dumps({"machine": machine, "command": command, "results": sheet.records}, indent=1) + "\n"


def csv_text(sheet: Sheet) -> str:
    flat = [
        {**record["case"], **{k: v for k, v in record.items() if k != "case"}} for record in sheet.records
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def markdown_text(sheet: Sheet, machine: dict[str, Any], command: str) -> str:
    rule = ["---:" if index in sheet.figures else "---" for index in range(len(sheet.header))]
    rows = [[grids.markdown_cell(cell) for cell in row] for row in sheet.rows]
    table = "".join(f"| {' | '.join(line)} |\n" for line in [sheet.header, rule, *rows])
    notes = "".join(f"{note}.\n\n" for note in sheet.notes)
    return f"{table}\n{notes}`{command}`\n\n{_place(machine)}.\n"


def _place(machine: dict[str, Any]) -> str:
    """The machine, the date and the versions in words."""
    place = dict(machine)
    words = f"{place.pop('device')}, {place.pop('threads')} threads; {place.pop('date')}; "
    return words + ", ".join(f"{name} {version}" for name, version in place.items())
