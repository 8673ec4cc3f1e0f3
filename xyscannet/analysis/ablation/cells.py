"""The cells of an ablation, one variant from one seed each: trained, measured, kept; any of them can be interrupted."""

from __future__ import annotations

import gc
import json
import logging
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from itertools import starmap
from pathlib import Path
from typing import Any

import torch
import yaml

from xyscannet import checkpoint, ops
from xyscannet.analysis.ablation.sets import TestSet
from xyscannet.analysis.ablation.settings import differences, told, training_settings
from xyscannet.analysis.ablation.variants import network
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.evaluation import Journal, Network, evaluate
from xyscannet.evaluation.engine import identity
from xyscannet.files import write_text
from xyscannet.metrics import registry
from xyscannet.reports.ablations import Cell, cell_from_json, cell_to_json
from xyscannet.reports.results import Evaluation, to_json
from xyscannet.training.config import TrainConfig, network_config
from xyscannet.training.loop import Interrupted, Trainer
from xyscannet.training.recipes import parse_config

logger = logging.getLogger("xyscannet")


@dataclass(frozen=True)
class Plan:
    """What is to be trained and measured.

    Attributes:
        study: one of `STUDIES`.
        folder: holds a folder for every variant, and in it one for every seed. Studies may share it: what a variant
            was trained to in one of them serves the others.
        recipe: the configuration that every variant is trained with; its `model` gives the sizes, its `seed` the first.
        variants, seeds: the cells: every variant from so many seeds.
        sets, gaps: from `find_sets`.
        facts: `versions`, `machine`, `command` of the cells.
        fresh: measure anew where something else was measured before; training is kept.
    """

    study: str
    folder: Path
    recipe: TrainConfig
    variants: Sequence[str]
    seeds: int
    sets: Sequence[TestSet]
    gaps: Mapping[str, str]
    device: torch.device
    offline: bool = False
    fresh: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cells(self) -> list[tuple[str, int]]:
        """(variant, seed) of every cell: each variant once before any of them a second time."""
        first = self.recipe.seed
        return [(variant, seed) for seed in range(first, first + self.seeds) for variant in self.variants]

    def home(self, variant: str, seed: int) -> Path:
        """The folder of a cell."""
        return self.folder / variant / f"seed-{seed}"

    def config(self, variant: str, seed: int) -> TrainConfig:
        """The configuration that a cell is trained with."""
        model = network(variant, network_config(self.recipe.model)).to_dict()
        values = self.recipe.model_dump(mode="json")
        return parse_config({**values, "name": variant, "seed": seed, "model": model})

    def blank(self, variant: str, seed: int) -> Cell:
        """A cell without values."""
        config = self.config(variant, seed)
        return Cell(
            study=self.study,
            variant=variant,
            seed=seed,
            network=dict(config.model),
            settings={
                "training": training_settings(config),
                "evaluation": {test.name: test.settings for test in self.sets},
            },
            gaps=dict(self.gaps),
            **self.facts,
        )


@dataclass(frozen=True)
class Watcher:
    """Who hears of a run: of each cell that starts, of the training's events, of images measured; and may stop it."""

    on_cell: Callable[[str, int, str], None] = lambda variant, seed, what: None
    on_event: Callable[[dict[str, Any]], None] = lambda event: None
    on_image: Callable[[str, int, int], None] = lambda name, done, total: None
    should_stop: Callable[[], bool] = lambda: False


def run(plan: Plan, watcher: Watcher | None = None) -> Iterator[Cell]:
    """Train and measure every cell that has no values yet; give each cell as it is done, or with its failure.

    A run that was interrupted goes on where it stopped, within a cell too. A cell that fails does not stop the
    others, and is tried again by the next run.

    Raises:
        ConfigError: a cell was made with other settings, or the configuration cannot run. Before anything starts.
        UnavailableError: data, weights or packages are missing.
        Interrupted: `watcher.should_stop` said so during training; the state is saved.
    """
    watcher = watcher or Watcher()
    for (variant, seed), cell in held(plan).items():
        if cell is None:
            cell = _make(plan, variant, seed, watcher)
            gc.collect()
            if plan.device.type == "cuda":
                torch.cuda.empty_cache()
        yield cell


def held(plan: Plan) -> dict[tuple[str, int], Cell | None]:
    """Every cell of a plan that an earlier run has made, None for the others.

    Raises ConfigError where one was made, or begun, with other settings.
    """
    return {(variant, seed): _held(plan, variant, seed) for variant, seed in plan.cells}


def _make(plan: Plan, variant: str, seed: int, watcher: Watcher) -> Cell:
    """Train and measure a cell, and keep it."""
    home, cell = plan.home(variant, seed), plan.blank(variant, seed)
    try:
        if not _is_trained(home):
            watcher.on_cell(variant, seed, "training")
            _train(plan, home, plan.config(variant, seed), watcher)
        watcher.on_cell(variant, seed, "measuring")
        cell = _measured(plan, home, cell, watcher)
    except (ConfigError, UnavailableError, Interrupted):
        raise
    except Exception as error:
        logger.debug("".join(traceback.format_exception(error)))
        cell = replace(cell, failure=f"{type(error).__name__}: {error}")
    cell = replace(cell, date=datetime.now(timezone.utc).isoformat(timespec="seconds"))
    with suppress(InputError if cell.failure else ()):  # on a full disk the failure is told all the same
        home.mkdir(parents=True, exist_ok=True)
        write_text(home / f"{plan.study}.json", cell_to_json(cell))
    return cell


def _held(plan: Plan, variant: str, seed: int) -> Cell | None:
    """What an earlier run kept of a cell. Raises ConfigError where that was made with other settings."""
    home, blank = plan.home(variant, seed), plan.blank(variant, seed)
    then = _trained_with(home)
    if then is not None:
        _check(training_settings(then), blank.settings["training"], home, "trained")
    path = home / f"{plan.study}.json"
    if not path.is_file():
        return None
    cell = cell_from_json(path.read_text(encoding="utf-8"), path)
    _check(cell.settings["training"], blank.settings["training"], home, "trained")
    if plan.fresh and cell.settings != json.loads(json.dumps(blank.settings)):
        return None
    _check(cell.settings["evaluation"], blank.settings["evaluation"], home, "measured")
    return cell if cell.failure is None else None


def _check(there: Any, here: Any, home: Path, what: str) -> None:
    found = differences(there, json.loads(json.dumps(here)))
    if found:
        way = "--fresh measures the trained networks anew, " if what == "measured" else ""
        raise ConfigError(
            f"{home} was {what} with other settings ({told(found)}); {way}--out chooses another folder"
        )


def _trained_with(home: Path) -> TrainConfig | None:
    """The configuration of the run that began in a folder; None where none did. Raises ConfigError."""
    path = home / "config.yaml"
    if not path.is_file():
        return None
    try:
        return parse_config(yaml.safe_load(path.read_text(encoding="utf-8")), where=str(path))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error


def _is_trained(home: Path) -> bool:
    """Whether the run in a folder came to its end."""
    try:
        last = (home / "log.jsonl").read_text(encoding="utf-8").splitlines()[-1]
        return json.loads(last)["event"] == "done" and (home / "last.safetensors").is_file()
    except (OSError, ValueError, KeyError, IndexError):
        return False


def _train(plan: Plan, home: Path, config: TrainConfig, watcher: Watcher) -> None:
    trainer = Trainer(
        config,
        home,
        device=plan.device,
        resume="auto",
        on_event=watcher.on_event,
        should_stop=watcher.should_stop,
        command=plan.facts.get("command", ""),
    )
    begun = [other for other in starmap(plan.home, plan.cells) if _is_trained(other)]
    for other in [*begun, home] if trainer.step else begun:
        starts = json.loads((other / "run.json").read_text(encoding="utf-8"))
        _check(_data(starts[-1]["data"]), _data(trainer.samples.manifest()), other, "trained")
    trainer.run()


def _data(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the data of a training are, wherever they lie."""
    sets = enumerate(manifest.get("sets", ()), 1)
    return {**manifest, "sets": {f"{n}": {**each, "root": None} for n, each in sets}}


def _measured(plan: Plan, home: Path, cell: Cell, watcher: Watcher) -> Cell:
    """The cell with what the trained network comes to on every set."""
    weights = checkpoint.read(home / "last.safetensors")
    model = checkpoint.load_model(weights.source, device=plan.device).fuse()
    known = {
        "weights": weights.sha256,
        "scan": ops.active_backend(plan.device.type),
        "device": plan.device.type,
    }
    dtype = torch.bfloat16 if plan.recipe.precision == "bf16" else torch.float32
    label = f"{cell.variant}, seed {cell.seed}"
    source = Network(model, label, known, dtype=dtype, tell=logger.warning)
    values, gaps, notes, problems = {}, dict(cell.gaps), {}, []
    for test in plan.sets:
        found = _evaluation(plan, home, test, source, watcher)
        failed = [(image.name, *each) for image in found.images for each in image.failures.items()]
        for column, metric in test.metrics.items():
            values[column] = found.summaries[metric].mean
            notes[column] = found.column(metric).note
            if values[column] is None:
                reasons = [reason for _, name, reason in failed if name in (metric, "image")]
                gaps[column] = reasons[0] if reasons else notes[column]
        computed = {metric for column, metric in test.metrics.items() if values[column] is not None}
        told = [(image, reason) for image, name, reason in failed if name in computed | {"image"}]
        if computed:
            problems += [f"{test.name}, {image}: {reason}" for image, reason in told]
        elif told:
            raise InputError(f"{test.name}: no image could be measured: {told[0][1]}")
    images = {test.name: len(test.dataset.samples) for test in plan.sets}
    return replace(cell, values=values, gaps=gaps, notes=notes, problems=problems, images=images)


def _evaluation(plan: Plan, home: Path, test: TestSet, source: Network, watcher: Watcher) -> Evaluation:
    folder, samples = home / "evaluation" / plan.study / test.name, test.dataset.samples
    metrics = registry.build_all(test.metrics.values(), device=str(plan.device), offline=plan.offline)
    known = identity(samples, source, metrics, dataset=test.name, protocol=test.protocol)
    try:
        journal = Journal(folder, known)
    except ConfigError:
        if not plan.fresh:
            raise
        journal = Journal(folder, known, fresh=True)
    with journal:
        found = evaluate(
            samples,
            source,
            metrics,
            journal,
            dataset=test.name,
            protocol=test.protocol,
            expected=test.dataset.expected,
            settings=source.identity,
            progress=lambda done, name: watcher.on_image(name, done, len(samples)),
            **plan.facts,
        )
    write_text(folder / "evaluation.json", to_json(found))
    return found


def kept(folder: Path, study: str, variant: str) -> list[Cell]:
    """The cells of a variant that a folder holds, by seed. Raises InputError for a file that holds none."""
    paths = (folder / variant).glob(f"seed-*/{study}.json")
    cells = [cell_from_json(path.read_text(encoding="utf-8"), path) for path in paths]
    return sorted(cells, key=lambda cell: cell.seed)
