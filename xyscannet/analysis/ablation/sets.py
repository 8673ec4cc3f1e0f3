"""What trained variants are measured on: the sets and metrics of the paper's table, as far as they are here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from xyscannet import images
from xyscannet.addresses import Address, place_of
from xyscannet.analysis.ablation.variants import ALIGNED, STUDIES
from xyscannet.data.sets import NAMES, Dataset
from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.metrics import registry
from xyscannet.training.config import PairsConfig
from xyscannet.training.samples import find_pairs

REALBLUR = "realblur"  # what the names of its two sets begin with


@dataclass(frozen=True)
class TestSet:
    """A data set, the table's name of it, and the registry name of the metric for each of its columns."""

    __test__ = False  # no class of pytest's

    name: str
    dataset: Dataset
    metrics: Mapping[str, str]

    @property
    def protocol(self) -> str:
        """As `xyscan eval` calls it."""
        return REALBLUR if self.name.startswith(REALBLUR) else "plain"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What decides a network's values on it, wherever it lies: the samples' names and their files' sizes."""
        samples = [(each.name, _size(each.blur), _size(each.sharp)) for each in self.dataset.samples]
        return {
            "images": len(samples),
            "metrics": dict(self.metrics),
            "samples_sha256": hashlib.sha256(repr(samples).encode()).hexdigest(),
        }


def _size(file: Path | Address | None) -> int | None:
    """Bytes of a file of this machine; None where they are not known."""
    try:
        return file.stat().st_size if isinstance(file, Path) else None
    except OSError:  # this image will fail by itself
        return None


def find_sets(
    study: str,
    given: Mapping[str, str],
    *,
    limit: int | None = None,
    device: str = "cpu",
    offline: bool = False,
) -> tuple[list[TestSet], dict[str, str]]:
    """The sets of a study's table that are here with the metrics that can be computed, and why the others cannot.

    Args:
        given: folders by name: the table's sets, and any other folder of pairs, which is measured with every metric
            of the table. Without any, the table's sets are looked for in the folders of XYSCAN_DATA.
        limit: the first so many images of each set only.

    Returns:
        The sets, and for each column of the table that has to stay empty the reason.

    Raises:
        ConfigError, UnavailableError: a folder that is given does not hold the set, or no set is here.
    """
    table = STUDIES[study].metrics()
    columns = dict(table)
    for name in given:
        if name not in {dataset for dataset, _ in table.values()}:
            columns |= _others(name, table.values())
    gaps = _uncomputable(columns, device, offline)
    wanted = {name: place for name, place in columns.items() if name not in gaps}
    sets = []
    for name in dict.fromkeys(dataset for dataset, _ in columns.values()):
        mine = {column: metric for column, (dataset, metric) in wanted.items() if dataset == name}
        try:
            dataset = _find(name, given)
        except UnavailableError as error:
            if name in given:
                raise
            gaps |= dict.fromkeys(mine, str(error).partition("\n")[0])
            continue
        blind = any(sample.sharp is None for sample in dataset.samples)
        for column in [
            column for column, metric in mine.items() if blind and registry.info(metric).needs_sharp
        ]:
            gaps[column] = f"{dataset.title} has no sharp images"
            del mine[column]
        if mine:
            sets.append(TestSet(name, replace(dataset, samples=dataset.samples[:limit]), mine))
    if not sets:
        told = "; ".join(dict.fromkeys(gaps.values()))
        raise UnavailableError(
            f"there is nothing to measure the trained networks on ({told}): --eval NAME=FOLDER, or XYSCAN_DATA"
        )
    return sets, gaps


def _find(name: str, given: Mapping[str, str]) -> Dataset:
    if given and name not in given:
        raise UnavailableError(f"no {name} was given")
    known = name if name in NAMES else None
    return find_pairs(PairsConfig(dataset=known, root=given.get(name), split="test"))


def _others(name: str, known: Sequence[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Columns of another set: every metric of images that the table has, for RealBlur as its protocol wants them."""
    instead = ALIGNED if name.startswith(REALBLUR) else {}
    metrics = dict.fromkeys(instead.get(metric, metric) for _, metric in known)
    return {f"{name} {metric}": (name, metric) for metric in metrics if registry.info(metric).kind == "image"}


def _uncomputable(columns: Mapping[str, tuple[str, str]], device: str, offline: bool) -> dict[str, str]:
    """Why a column's metric cannot be computed on this machine, whatever the set."""
    reasons: dict[str, str] = {}
    for metric in dict.fromkeys(metric for _, metric in columns.values()):
        try:
            registry.build(metric, device=device, offline=offline)
        except UnavailableError as error:
            reasons[metric] = str(error).partition("\n")[0]
    return {column: reasons[metric] for column, (_, metric) in columns.items() if metric in reasons}


def image_size(test: TestSet) -> tuple[int, int]:
    """Height and width of the first image of a set. Raises InputError where it cannot be read."""
    info = images.probe(test.dataset.samples[0].blur)
    return info.height, info.width


def parse_given(texts: Sequence[str]) -> dict[str, str]:
    """Folders by set name from `NAME=FOLDER` texts. Raises ConfigError."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not (re.fullmatch(r"[\w.+-]+", name) and folder):
            raise ConfigError(f"--eval needs NAME=FOLDER with a name without spaces, not {text!r}")
        if name in found:
            raise ConfigError(f"--eval {name} is given twice")
        if isinstance(place_of(folder), Address):
            raise ConfigError(f"--eval {name}: {folder} is an address; give a folder of this machine")
        found[name] = folder
    return found
