"""What `xyscan ablate` says and writes."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xyscan_cli import console, tables
from xyscan_cli.commands import _train_report as training
from xyscan_cli.exits import Terminated
from xyscan_cli.progress import Progress, duration
from xyscannet.files import write_text

if TYPE_CHECKING:
    from xyscan_cli.stopping import StopOnSignal
    from xyscannet.analysis.ablation import Plan, Watcher
    from xyscannet.reports.ablations import Ablation, Cell

    Held = Mapping[tuple[str, int], Cell | None]

LISTED = 20


def print_plan(plan: Plan, held: Held, size: tuple[int, int]) -> None:
    """What will be trained, measured and profiled, beside the cells that are there."""
    from xyscannet.analysis.ablation import STUDIES

    done = sum(cell is not None for cell in held.values())
    table = STUDIES[plan.study].table
    recipe, (patch, batch) = plan.recipe, plan.recipe.shapes[0]
    console.field("table", f"{table} of the paper: {', '.join(plan.variants)}")
    before = f", {done} made before" if done else ""
    console.field("cells", f"{len(plan.cells)}, {plan.seeds} of each variant, in {plan.folder}{before}")
    console.field(
        "training", f"{recipe.iterations} steps of {batch} crops of {patch}x{patch}, {recipe.precision}"
    )
    for test in plan.sets:
        console.field(
            "measured", f"{test.dataset.title}, {len(test.dataset.samples)} images, in {test.dataset.root}"
        )
        for problem in test.dataset.problems[:3]:
            console.warn(problem)
    console.field("profile", f"training steps, and inference at {size[0]}x{size[1]}, on {plan.device}")
    for column, reason in plan.gaps.items():
        console.warn(f"{column} stays empty: {reason}")


class Watching:
    """While entered, shows a run of cells and, where a signal has arrived, ends it after the current step or image."""

    def __init__(self, plan: Plan, held: Held, stop: StopOnSignal) -> None:
        self._plan, self._stop, self._stack = plan, stop, ExitStack()
        self._todo = [where for where, cell in held.items() if cell is None]
        self._begun = time.monotonic()
        self._shown: Any = None
        self._images = 0  # of the sets before this one

    def __enter__(self) -> Watcher:
        from xyscannet.analysis.ablation import Watcher

        self._stop.__enter__()
        return Watcher(self._cell, lambda event: self._shown(event), self._image, self._stop.asked)

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        self._stop.__exit__()

    def _cell(self, variant: str, seed: int, what: str) -> None:
        self._stack.close()
        self._end_if_asked()
        number = self._plan.cells.index((variant, seed)) + 1
        left = self._left(self._todo.index((variant, seed))) if what == "training" else ""
        console.say(f"{what} {variant}, seed {seed}: cell {number} of {len(self._plan.cells)}{left}")
        if what == "training":
            self._shown = self._stack.enter_context(training.shown(self._plan.config(variant, seed)))
        else:
            self._images = 0
            images = sum(len(test.dataset.samples) for test in self._plan.sets)
            self._shown = self._stack.enter_context(Progress(images, "images"))

    def _image(self, name: str, done: int, total: int) -> None:
        self._end_if_asked()
        self._shown.update(self._images + done, name=name)
        if done == total:
            self._images += total

    def _left(self, made: int) -> str:
        """The time that the rest takes at the rate of the cells that this run has made."""
        if not made:
            return ""
        each = (time.monotonic() - self._begun) / made
        return f", about {duration(each * (len(self._todo) - made))} left"

    def _end_if_asked(self) -> None:
        if self._stop.asked():
            raise KeyboardInterrupt if self._stop.number == signal.SIGINT else Terminated


def show(table: Ablation, json_path: Path | None) -> None:
    """The table and its notes; with `--json -` the record on stdout instead."""
    from xyscannet.reports import ablations, grids

    if json_path is not None and str(json_path) == "-":
        sys.stdout.write(ablations.to_json(table))
        return
    header, rows, notes = grids.text_rows(ablations.grid(table))
    tables.show(header, rows, right=range(1, len(header)))
    for note in notes:
        console.say(note)


def write(table: Ablation, files: Mapping[str, Path | None]) -> None:
    """The files that were asked for."""
    from xyscannet.reports import ablations

    makers = {
        "--json": ablations.to_json,
        "--csv": ablations.csv_text,
        "--markdown": ablations.markdown,
        "--latex": ablations.latex,
    }
    for option, path in files.items():
        if path is not None:
            write_text(path, makers[option](table))
            console.say(f"wrote {path}")


def print_failures(table: Ablation) -> bool:
    """Every cell that failed and every image; whether there was one."""
    lines = [f"{cell.variant}, seed {cell.seed}: {cell.failure}" for cell in table.cells if cell.failure]
    lines += [
        f"{cell.variant}, seed {cell.seed}, {problem}" for cell in table.cells for problem in cell.problems
    ]
    if lines:
        more = [f"  and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
        console.error("\n".join([f"{len(lines)} failed:", *(f"  {line}" for line in lines[:LISTED]), *more]))
    return bool(lines)
