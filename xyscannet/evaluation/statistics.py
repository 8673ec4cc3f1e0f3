"""From values of images to what tables print: mean, median, the mean's interval, the worst, paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from xyscannet.errors import ConfigError
from xyscannet.reports.results import Comparison, Evaluation, Summary

RESAMPLES = 10_000
SEED = 0
WORST = 5
_AT_ONCE = 4_000_000  # values drawn at once


def summarise(values: Mapping[str, float | None], higher_is_better: bool = True) -> Summary:
    """Of values by image name, None where one is missing; see `Summary`. The interval is `interval`'s."""
    known = {name: value for name, value in values.items() if value is not None}
    finite = np.array([value for value in known.values() if math.isfinite(value)])
    worst = sorted(known, key=lambda name: (known[name] if higher_is_better else -known[name], name))
    low, high = interval(finite) if finite.size > 1 else (None, None)
    return Summary(
        mean=float(finite.mean()) if finite.size else None,
        median=float(np.median(finite)) if finite.size else None,
        low=low,
        high=high,
        count=int(finite.size),
        infinite=len(known) - int(finite.size),
        failed=len(values) - len(known),
        worst=tuple(worst[:WORST]),
    )


def interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of the mean by the percentile bootstrap (Efron 1979), 10,000 resamples, the same for the same values."""
    generator = np.random.default_rng(SEED)
    rows = max(1, _AT_ONCE // len(values))
    means = [
        values[generator.integers(0, len(values), (min(rows, RESAMPLES - first), len(values)))].mean(axis=1)
        for first in range(0, RESAMPLES, rows)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """`second` minus `first`, image by image, for every metric of images that both have.

    Images without a finite value in both are left out. Raises ConfigError where the sets or protocols differ, or no
    image is common to both.
    """
    if (first.dataset, first.protocol) != (second.dataset, second.protocol):
        raise ConfigError(
            f"{first.label} was measured on {first.dataset} ({first.protocol}), {second.label} on {second.dataset} "
            f"({second.protocol}): their images do not correspond"
        )
    theirs = {image.name: image for image in second.images}
    pairs = [(image, theirs[image.name]) for image in first.images if image.name in theirs]
    if not pairs:
        raise ConfigError(f"{first.label} and {second.label} have no image in common")
    known = {column.name for column in second.columns}
    differences, summaries, wins = {}, {}, {}
    for column in first.columns:
        if column.of_set or column.name not in known:
            continue
        values = [
            (one.name, one.values.get(column.name), other.values.get(column.name)) for one, other in pairs
        ]
        found = {
            name: b - a
            for name, a, b in values
            if a is not None and b is not None and math.isfinite(a) and math.isfinite(b)
        }
        differences[column.name] = found
        summaries[column.name] = summarise(found, column.higher_is_better)
        sign = 1 if column.higher_is_better else -1
        wins[column.name] = sum(sign * difference > 0 for difference in found.values())
    return Comparison(first.label, second.label, differences, summaries, wins)
