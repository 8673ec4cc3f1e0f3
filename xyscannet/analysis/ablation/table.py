"""From cells and costs to the paper's table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xyscannet.analysis.ablation import costs
from xyscannet.analysis.ablation.cells import Plan, kept
from xyscannet.analysis.ablation.costs import EPOCH
from xyscannet.analysis.ablation.settings import RECIPE, differences, told, training_settings
from xyscannet.analysis.ablation.variants import STUDIES, network
from xyscannet.data.sets import KNOWN
from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.metrics import registry
from xyscannet.models import XYScanNetConfig
from xyscannet.reports import paper
from xyscannet.reports.ablations import Ablation, Cell, Variant
from xyscannet.training.config import network_config
from xyscannet.training.recipes import load_config


def tabulate(
    study: str,
    cells: Sequence[Cell],
    record: Mapping[str, Any] | None,
    *,
    seeds: int,
    gaps: Mapping[str, str] | None = None,
    **facts: Any,
) -> Ablation:
    """The table of a study from its cells and from what `costs.read` gives.

    Args:
        seeds: how many cells each variant should have.
        gaps: why columns are empty, beside the reasons that the cells have.
        facts: `versions`, `machine`, `command` and `date` of the `Ablation`.

    Raises ConfigError where the cells were made with different settings.
    """
    _check(cells)
    held = STUDIES[study]
    columns = paper.table(held.table).columns
    found = {cell.variant: cell.network for cell in cells}
    measured = record["figures"] if record else {}
    variants = []
    for name, label in held.rows.items():
        if name in found:
            counted = costs.counted(XYScanNetConfig.from_dict(dict(found[name])), columns)
            variants.append(Variant(name, label, found[name], counted | measured.get(name, {})))
    metrics = {column: metric for column, (_, metric) in held.metrics().items()}
    for cell in cells:
        for test in cell.settings["evaluation"].values():
            metrics |= {column: metric for column, metric in test["metrics"].items() if column not in metrics}
    reasons = dict(gaps or {})
    for cell in cells:
        reasons = {**cell.gaps, **reasons}
    filled = {column for cell in cells for column, value in cell.values.items() if value is not None}
    return Ablation(
        study=study,
        table=held.table,
        variants=variants,
        cells=sorted(cells, key=lambda cell: (list(held.rows).index(cell.variant), cell.seed)),
        metrics=metrics,
        seeds=seeds,
        higher=[name for name in dict.fromkeys(metrics.values()) if registry.info(name).higher_is_better],
        gaps={column: reason for column, reason in reasons.items() if column not in filled},
        notes=_notes(held.table, cells, record, seeds),
        **facts,
    )


def collect(folder: str | os.PathLike[str], study: str, variants: Sequence[str] | None = None) -> Ablation:
    """The table of the cells that a folder holds, of some variants or all, from whatever seeds there are.

    Raises UnavailableError where there is none, ConfigError where they were made with different settings.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UnavailableError(f"{folder} is no folder of an ablation")
    cells = [cell for variant in variants or STUDIES[study].rows for cell in kept(folder, study, variant)]
    if not cells:
        raise UnavailableError(f"{folder} holds no cell of {study}: there is no VARIANT/seed-N/{study}.json")
    counts = [sum(cell.variant == variant for cell in cells) for variant in {cell.variant for cell in cells}]
    newest = max(cells, key=lambda cell: cell.date)
    return tabulate(
        study,
        cells,
        costs.read(costs_file(folder, study)),
        seeds=max(counts),
        versions=newest.versions,
        machine=newest.machine,
        command=newest.command,
        date=newest.date,
    )


def profile(
    plan: Plan,
    size: tuple[int, int],
    *,
    repeats: int = 5,
    memory: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """What the variants of a plan cost on its device: measured in turn, or what an earlier run kept of the same.

    Args:
        size: height and width of the image of an inference.
    """
    patch, batch = plan.recipe.shapes[0]
    conditions = costs.Conditions(
        patch=patch,
        batch=batch,
        accumulate=plan.recipe.accumulate,
        height=size[0],
        width=size[1],
        dtype=plan.recipe.precision,
        device=str(plan.device),
        machine=plan.facts.get("machine", ""),
        versions=plan.facts.get("versions", {}),
        repeats=repeats,
        memory=memory,
    )
    size_of = network_config(plan.recipe.model)
    networks = {name: network(name, size_of) for name in plan.variants}
    path = costs_file(plan.folder, plan.study)
    record = costs.read(path)
    if record is None or not costs.holds(record, networks, conditions):
        found = costs.measure(networks, conditions, tell)
        record = costs.keep(path, networks, conditions, found)
    return record


def costs_file(folder: Path, study: str) -> Path:
    """Where a study's measured costs are kept."""
    return folder / f"costs-{study}.json"


def _check(cells: Sequence[Cell]) -> None:
    for cell in cells[1:]:
        found = differences(cells[0].settings, cell.settings)
        if found:
            first, other = (f"{each.variant}, seed {each.seed}" for each in (cells[0], cell))
            raise ConfigError(f"{first} and {other} do not belong in one table: {told(found)}")


def _notes(number: int, cells: Sequence[Cell], record: Mapping[str, Any] | None, seeds: int) -> list[str]:
    many = f"Mean ± standard deviation over {seeds} seeds." if seeds > 1 else "One seed: no deviation."
    notes = [many, f"Rows of the paper: Table {number}, as printed. {paper.table(number).note}"]
    if cells:
        notes += _of_training(cells[0]) + _of_sets(cells)
    if len({tuple(sorted(cell.versions.items())) for cell in cells}) > 1:
        notes.append("The cells were made with different versions of the packages.")
    if record and any("time" in column or "memory" in column for column in paper.table(number).columns):
        notes.append(_of_costs(record["conditions"]))
    return notes


def _of_training(cell: Cell) -> list[str]:
    """What was trained otherwise than in the paper."""
    theirs = training_settings(load_config(RECIPE))
    here = cell.settings["training"]
    found = [
        each for each in differences(theirs, here) if not each[0].startswith(("data.pairs", "data.photos"))
    ]
    if not found:
        return []
    changed = ", ".join(f"{key} {value} ({printed})" for key, printed, value in found)
    return [f"Not trained as in the paper: {changed} (in brackets: the recipe {RECIPE})."]


def _of_sets(cells: Sequence[Cell]) -> list[str]:
    notes = []
    for name, test in cells[0].settings["evaluation"].items():
        title = KNOWN[name].title if name in KNOWN else name
        whole = KNOWN[name].counts.get("test") if name in KNOWN else None
        if test["images"] != whole:
            images = f"{test['images']} image{'s' * (test['images'] != 1)}"
            notes.append(f"{title}: {images}{f', not the {whole} of the test split' if whole else ''}.")
    return notes


def _of_costs(at: Mapping[str, Any]) -> str:
    step = f"a step of {at['batch']} crops of {at['patch']}x{at['patch']} pixels"
    parts = f" in {at['accumulate']} parts" if at["accumulate"] > 1 else ""
    return (
        f"Training time: {EPOCH} crops, as many as GoPro has training images, at the speed of {step}{parts} (forward, "
        f"Charbonnier loss, backward, Adam), {at['dtype']}; the paper does not say what its training seconds are of. "
        f"Inference: one image of {at['height']}x{at['width']} pixels. Memory: 10^9 bytes that a step or an inference "
        f"adds to the weights. Median of {at['repeats']}, a run's variants in turn, warm, on {at['machine']}; the "
        "paper's are of one RTX 3090."
    )
