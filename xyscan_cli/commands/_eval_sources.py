"""What `xyscan eval` measures: the images of a set, and what restores them. Folders may be at addresses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xyscan_cli import console, networks
from xyscannet.addresses import Address, place_of
from xyscannet.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    from xyscan_cli.commands._eval_places import Running
    from xyscannet.data.datasets import Dataset, Sample
    from xyscannet.evaluation import Source

    Make = Callable[[Path | None], Source]

_WEIGHTS = {".safetensors", ".pth"}


def images(
    dataset: str | None,
    pairs: tuple[str, str] | None,
    restored: str | None,
    sharp: str | None,
    root: str | None,
    split: str,
    named: bool,
    blurred: bool,
) -> tuple[Dataset, str | None]:
    """The samples, and the label of what stands in for their blurred images where that is to be measured alone.

    Args:
        dataset: a known set's name.
        named: whether there are sources.
        blurred: whether the blurred images are to be measured too.
    """
    from xyscannet.data import datasets
    from xyscannet.data.remote import seen

    if sum(given is not None for given in (dataset, pairs, restored)) > 1:
        raise ConfigError("--dataset, --pairs and --restored exclude each other")
    if (sharp is not None) != (restored is not None):
        raise ConfigError("--restored and --sharp belong together")
    if restored is not None:
        if blurred:
            raise ConfigError(
                "--blurred needs --dataset, --pairs or --root: --restored has no blurred images"
            )
        if named:
            raise ConfigError("--restored is what is measured; other sources need --dataset or --pairs")
        folder = place_of(restored)
        return seen(datasets.pair_folders, folder, place_of(sharp)), folder.name or str(folder)
    if pairs is not None:
        return seen(datasets.pair_folders, *map(place_of, pairs)), None
    place = None if root is None else place_of(root)
    if dataset is not None:
        return seen(lambda folder: datasets.find(dataset, folder, split), place), None
    if place is None:
        raise ConfigError(
            "give --dataset NAME, --root DIR, --pairs BLUR SHARP, or --restored DIR with --sharp DIR"
        )
    sets = [each for each in seen(datasets.recognise, place) if each.split in (split, "all", "")]
    if len(sets) == 1:
        return sets[0], None
    if not sets:
        raise UnavailableError(
            f"{place} holds no {split} split of pairs; xyscan data check {place} says what is there"
        )
    raise ConfigError(
        f"{place} holds several sets: {'; '.join(f'{s.root} ({s.layout})' for s in sets)}; give one"
    )


def sources(
    named: Sequence[str], as_they_are: str | None, blurred: bool, samples: Sequence[Sample], runs: Running
) -> Iterator[tuple[str, Make]]:
    """Labels, and what makes each source, given a folder for its images or None.

    Args:
        samples: the whole set.
    """
    from xyscannet.evaluation import AsIs, Folder

    if blurred:
        yield "blurred input", lambda keep: AsIs()
    if as_they_are is not None:
        yield as_they_are, lambda keep: AsIs(as_they_are)
        return
    names = list(named) or [networks.default_weights(runs.device)]
    if len(set(names)) < len(names):
        raise ConfigError("one source is given twice")
    folders = {name: place for name in names if (place := _folder(name)) is not None}
    labels = [_label(name, names, folders) for name in names]
    for name, label in zip(names, labels, strict=True):
        if name in folders:
            yield label, lambda keep, name=name, label=label: Folder(folders[name], samples, label)
        else:
            yield label, lambda keep, name=name, label=label: _network(name, label, keep, runs)


def refuse_inputs(home: Path, kept: bool, samples: Sequence[Sample], given: Sequence[str]) -> None:
    """Raise ConfigError where an evaluation's folder is one of what it measures, or would keep images in one.

    Args:
        given: folders, and other sources, by their paths or addresses.
    """
    files = [file for sample in samples for file in (sample.blur, sample.sharp)]
    places = {file.parent for file in files if isinstance(file, Path)} | set(map(place_of, given))
    here = home.resolve()
    for folder in sorted(place.resolve() for place in places if isinstance(place, Path) and place.is_dir()):
        if here == folder or (kept and here.is_relative_to(folder)):
            raise ConfigError(f"{home}: results would lie among the images of {folder}; choose another --out")


def _folder(name: str) -> Path | Address | None:
    """The folder of restored images that a source names; None for a network. An address tells by its suffix."""
    place = place_of(name)
    if isinstance(place, Path):
        return place if place.is_dir() else None
    return None if place.suffix.lower() in _WEIGHTS else place


def _label(name: str, names: Sequence[str], folders: dict[str, Path | Address]) -> str:
    """The last part of a path, or all of it where several end alike."""
    if name in folders:
        short = folders[name].name or name
    else:
        short = re.sub(r"\.(safetensors|pth)$", "", place_of(name).name)
    alike = [other for other in names if Path(other).stem == Path(name).stem]
    return name if len(alike) > 1 else short


def _network(name: str, label: str, keep: Path | None, runs: Running) -> Source:
    from xyscannet.evaluation import Network

    model, words, digest = networks.load_network(name, runs.loaded, runs.channel_order)
    console.field("network", words)
    console.field("scan", runs.scan)
    known = {
        "weights": digest,
        "channel_order": runs.channel_order,
        "scan": runs.scan,
        "device": runs.device,
    }
    return Network(
        model,
        label,
        known,
        dtype=runs.dtype,
        scales=runs.scales,
        tile=runs.tile,
        ensemble=runs.ensemble,
        keep=keep,
        tell=console.warn,
    )
