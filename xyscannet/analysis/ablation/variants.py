"""The paper's ablations (Section 4.3): the variants of the network, and the tables that compare them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from xyscannet.data.sets import NAMES
from xyscannet.models import XYScanNetConfig
from xyscannet.reports import paper

OURS: dict[str, Any] = {
    "scanners": ("intra", "inter"),
    "bidirectional": False,
    "fusion": "klff",
    "gate": "element",
}
"""What the paper's own network has where the variants differ."""

VARIANTS: dict[str, dict[str, Any]] = {
    "xyscannet": {},
    "mambair": {"scanners": ("ss2d", "ss2d")},
    "bidirectional": {"bidirectional": True},
    "inter-only": {"scanners": ("inter", "inter")},
    "intra-only": {"scanners": ("intra", "intra")},
    "plain-skip": {"fusion": "none"},
    "aff": {"fusion": "aff"},
    "klff-mean": {"gate": "mean"},
}
"""Each variant by what it changes."""

METRICS = {"psnr": "psnr", "lpips": "lpips-alex", "niqe": "niqe", "kid": "kid", "fid": "fid"}
"""The tables' metrics -> registry names."""

SHIFT_TOLERANT = {"realblur-j lpips": "st-lpips"}

ALIGNED = {"psnr": "psnr-realblur", "lpips-alex": "st-lpips"}
"""Metrics -> what takes their place on a RealBlur that the table does not have, whose pairs are misaligned."""


@dataclass(frozen=True)
class Study:
    """One of the paper's ablation tables.

    Attributes:
        table: its number, 5 to 8.
        rows: the row's label in it by variant, in its order. "KLFF, mean gate" is no row of the paper's.
    """

    table: int
    rows: dict[str, str]

    def metrics(self) -> dict[str, tuple[str, str]]:
        """The table's columns of quality -> (data set, registry name of the metric)."""
        split = ((column, *column.partition(" ")[::2]) for column in paper.table(self.table).columns)
        return {
            column: (dataset, SHIFT_TOLERANT.get(column) or METRICS[metric])
            for column, dataset, metric in split
            if dataset in NAMES
        }


STUDIES = {
    "vssm": Study(5, {"mambair": "MambaIR", "xyscannet": "XYScanNet"}),
    "scan": Study(6, {"bidirectional": "bidirectional", "xyscannet": "unidirectional"}),
    "slices": Study(7, {"inter-only": "inter only", "intra-only": "intra only", "xyscannet": "hybrid"}),
    "fusion": Study(
        8, {"plain-skip": "plain skip", "aff": "AFF", "xyscannet": "KLFF", "klff-mean": "KLFF, mean gate"}
    ),
}


def network(variant: str, size: XYScanNetConfig) -> XYScanNetConfig:
    """The network of a variant with the widths, block counts and other sizes of `size`."""
    return dataclasses.replace(size, **OURS | VARIANTS[variant])
