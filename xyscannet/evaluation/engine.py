"""One evaluation: every sample restored, measured, forgotten; memory does not grow with the set."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from xyscannet.addresses import Address
from xyscannet.errors import ConfigError, InputError
from xyscannet.evaluation.journal import Journal
from xyscannet.evaluation.sources import Source, photo_of
from xyscannet.evaluation.statistics import summarise
from xyscannet.metrics.base import Metric
from xyscannet.reports.results import Column, Evaluation, ImageResult, Summary

STATES_EVERY = 100  # images between two savings of what metrics of sets have gathered


class Sample(Protocol):
    """A blurred image and its sharp partner, None where the set has none; `name` is unique in the set."""

    name: str
    blur: Path | Address
    sharp: Path | Address | None


Shares = Mapping[str, dict[str, np.ndarray]]  # what a sample adds to metrics of sets, by their names


class Keep(Protocol):
    """Takes what `measure` found."""

    def __call__(self, image: ImageResult, seconds: Mapping[str, float], shares: Shares) -> None: ...


def identity(
    samples: Sequence[Sample], source: Source, metrics: Sequence[Metric], **more: Any
) -> dict[str, Any]:
    """Everything that decides an evaluation's values, for its journal.

    Whether a file of this machine has changed is told by its size and time.
    """
    names = [(s.name, str(s.blur), str(s.sharp)) for s in samples]
    states = [(_state(s.blur), _state(s.sharp)) for s in samples]
    return {
        **more,
        "label": source.label,
        **source.identity,
        "metrics": [metric.name for metric in metrics],
        **{metric.name: metric.made_by for metric in metrics},
        "samples": hashlib.sha256(repr(names).encode()).hexdigest(),
        "contents": hashlib.sha256(repr(states).encode()).hexdigest(),
    }


def _state(file: Path | Address | None) -> tuple[int, int] | None:
    """What changes with a file; None where that is not known."""
    try:
        known = None if file is None or isinstance(file, Address) else file.stat()
    except OSError:  # this image will fail by itself
        return None
    return known and (known.st_size, known.st_mtime_ns)


def evaluate(
    samples: Sequence[Sample],
    source: Source,
    metrics: Sequence[Metric],
    journal: Journal,
    *,
    dataset: str,
    protocol: str,
    expected: int | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Callable[[int, str], None] = lambda done, name: None,
    across: Callable[[Sequence[Sample], Keep], None] | None = None,
    **facts: Any,
) -> Evaluation:
    """Measure every sample that the journal does not hold yet; one that fails does not stop the others.

    Metrics see the 8-bit RGB pixels of the files that a user would get. An interruption leaves the journal such that
    the same call goes on from there.

    Args:
        progress: called before each sample, of those measured elsewhere after it, with the number of samples done and
            its name, and at the end.
        across: measures the samples it is given elsewhere, and hands the results on in their order; see `measure_on`.
        facts: `versions`, `machine`, `command` of the `Evaluation`.

    Raises:
        ConfigError: there are no samples, or two of one name.
    """
    if not samples:
        raise ConfigError(f"{dataset}: there is no image to measure")
    if len({sample.name for sample in samples}) < len(samples):
        raise ConfigError(f"{dataset}: two samples have one name")
    of_images = [metric for metric in metrics if metric.kind == "image"]
    of_sets = [metric for metric in metrics if metric.kind != "image"]
    _resume(of_sets, journal)
    todo = [sample for sample in samples if sample.name not in journal.images]

    agree = True  # the journal and the metrics of sets, on the images that they have

    def keep(image: ImageResult, seconds: Mapping[str, float], shares: Shares) -> None:
        nonlocal agree
        image = replace(image, values={metric.name: image.values.get(metric.name) for metric in of_images})
        agree = False
        for metric in of_sets:
            metric.merge(shares.get(metric.name, {}))
        journal.add(image, seconds)
        agree = True
        if of_sets and len(journal.images) % STATES_EVERY == 0:
            _save(of_sets, journal)
        if across is not None:
            progress(len(journal.images), image.name)

    try:
        if across is not None:
            across(todo, keep)
        else:
            for sample in todo:
                progress(len(journal.images), sample.name)
                keep(*measure(sample, source, of_images, of_sets))
    finally:
        if agree:  # else what was saved before holds
            _save(of_sets, journal)
    progress(len(journal.images), "")
    images = tuple(journal.images[sample.name] for sample in samples)
    columns, summaries = _columns(images, of_images, of_sets, journal)
    return Evaluation(
        label=source.label,
        dataset=dataset,
        protocol=protocol,
        columns=columns,
        images=images,
        summaries=summaries,
        expected=expected,
        settings=dict(settings or {}),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **facts,
    )


def measure(
    sample: Sample, source: Source, of_images: Sequence[Metric], of_sets: Sequence[Metric]
) -> tuple[ImageResult, dict[str, float], Shares]:
    """The result of one sample, the seconds that each metric took, and what the sample adds to those of sets."""
    failures: dict[str, str] = {}
    shares: dict[str, dict[str, np.ndarray]] = {}
    values: dict[str, float | None] = dict.fromkeys((metric.name for metric in of_images), None)
    seconds: dict[str, float] = {}
    restored = sharp = file = network_seconds = None
    try:
        photo, file, network_seconds = source.restored(sample)
        restored = photo.rgb
        if sample.sharp is not None:
            sharp = photo_of(sample.sharp).rgb
    except InputError as error:
        failures["image"] = str(error)
    except MemoryError:
        failures["image"] = f"{sample.name}: not enough memory"
    if not failures:
        for metric in [*of_images, *of_sets]:
            started = time.perf_counter()
            try:
                if metric.kind == "image":
                    values[metric.name] = metric.update(restored, sharp)
                else:
                    shares[metric.name] = metric.share(restored, sharp)
            except InputError as error:
                failures[metric.name] = f"{sample.name}: {error}"
            except (MemoryError, torch.OutOfMemoryError):
                failures[metric.name] = f"{sample.name}: not enough memory"
            if metric.name in failures:
                torch.cuda.empty_cache()
            seconds[metric.name] = time.perf_counter() - started
    height, width = restored.shape[:2] if restored is not None else (None, None)
    image = ImageResult(
        name=sample.name,
        values=values,
        blur=str(sample.blur),
        restored=file,
        sharp=None if sample.sharp is None else str(sample.sharp),
        height=height,
        width=width,
        restored_seconds=network_seconds,
        failures=failures,
    )
    return image, seconds, shares


def unmeasured(sample: Sample, reason: str) -> ImageResult:
    """The result of a sample that could not be measured at all; it names no metrics."""
    sharp = None if sample.sharp is None else str(sample.sharp)
    return ImageResult(sample.name, {}, str(sample.blur), None, sharp, failures={"image": reason})


def _resume(of_sets: Sequence[Metric], journal: Journal) -> None:
    """Bring journal and metrics of sets to the last point that both know."""
    for metric in of_sets:
        metric.resume({})  # of what another evaluation gave it
    if not journal.images:
        _save(of_sets, journal)  # in the place of another evaluation's
        return
    if not of_sets:
        return
    states = [journal.state(metric.name) for metric in of_sets]
    counts = {count for state in states if state is not None for count in [state[1]]}
    if any(state is None for state in states) or len(counts) > 1 or max(counts) > len(journal.images):
        journal.forget_after(0)
        return
    journal.forget_after(counts.pop())
    for metric, (state, _) in zip(of_sets, states, strict=True):
        metric.resume(state)


def _save(of_sets: Sequence[Metric], journal: Journal) -> None:
    for metric in of_sets:
        journal.save_state(metric.name, metric.state())


def _columns(
    images: Sequence[ImageResult], of_images: Sequence[Metric], of_sets: Sequence[Metric], journal: Journal
) -> tuple[tuple[Column, ...], dict[str, Summary]]:
    columns, summaries = [], {}
    for metric in of_images:
        info, seconds = metric.info, _median(journal.seconds[metric.name])
        columns.append(
            Column(info.name, info.title, info.unit, info.higher_is_better, metric.note, False, seconds)
        )
        summaries[info.name] = summarise(
            {image.name: image.values[info.name] for image in images}, info.higher_is_better
        )
    for metric in of_sets:
        info = metric.info
        seconds = _median(journal.seconds[metric.name])
        measured = sum(not {"image", metric.name} & image.failures.keys() for image in images)
        try:
            found = metric.compute()
            note = metric.note
        except InputError as error:
            found, note = {info.name: None}, str(error)
        for name, value in found.items():
            title = info.title if name == info.name else f"{info.title} x1000"
            columns.append(Column(name, title, info.unit, info.higher_is_better, note, True, seconds))
            value = None if value is None or not np.isfinite(value) else float(value)
            summaries[name] = Summary(value, None, None, None, measured if value is not None else 0)
    return tuple(columns), summaries


def _median(seconds: Sequence[float]) -> float | None:
    return statistics.median_low(seconds) if seconds else None
