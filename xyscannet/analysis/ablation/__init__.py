"""The paper's ablation tables by training: variants, cells that can be interrupted, costs, and the table."""

from __future__ import annotations

from xyscannet.analysis.ablation.cells import Plan, Watcher, held, run
from xyscannet.analysis.ablation.sets import TestSet, find_sets, image_size, parse_given
from xyscannet.analysis.ablation.settings import recipe
from xyscannet.analysis.ablation.table import collect, profile, tabulate
from xyscannet.analysis.ablation.variants import STUDIES, VARIANTS, network

__all__ = [
    "STUDIES",
    "VARIANTS",
    "Plan",
    "TestSet",
    "Watcher",
    "collect",
    "find_sets",
    "held",
    "image_size",
    "network",
    "parse_given",
    "profile",
    "recipe",
    "run",
    "tabulate",
]
