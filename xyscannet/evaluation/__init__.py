"""Measuring restored images: a set of pairs, what restores them, the metrics, and what came out of it as plain data."""

from __future__ import annotations

from xyscannet.evaluation.engine import Sample, evaluate
from xyscannet.evaluation.journal import Journal
from xyscannet.evaluation.sources import AsIs, Folder, Network, Source
from xyscannet.evaluation.statistics import compare, summarise

__all__ = [
    "AsIs",
    "Folder",
    "Journal",
    "Network",
    "Sample",
    "Source",
    "compare",
    "evaluate",
    "summarise",
]
