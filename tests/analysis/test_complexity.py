"""What is counted of a network; the paper's counts are in test_variants.py."""

from __future__ import annotations

import sys

import pytest

from xyscannet.analysis.complexity import ScanShape, _count_configured, count
from xyscannet.models import XYScanNetConfig
from xyscannet.ops import active_backend, backends


def test_less_runs_than_is_defined():
    complexity = count(XYScanNetConfig(), 256, 256)
    assert 0.97 * complexity.macs < complexity.executed_macs < complexity.macs
    assert sum(complexity.by_module.values()) == complexity.macs


def test_scans_of_a_small_network():
    config = XYScanNetConfig(width=4, encoder_blocks=(1, 1, 1), decoder_blocks=(2, 0, 1), d_state=3)
    complexity = count(config, 9, 15, batch=2)  # padded to 12 x 16
    assert complexity.scans == {
        ScanShape(2, 12, 16, 4, 3, ("x", "y")): 2,
        ScanShape(2, 1, 12, 4, 3, ("x",)): 2,
        ScanShape(2, 1, 16, 4, 3, ("x",)): 2,
        ScanShape(2, 3, 4, 16, 3, ("x", "y")): 1,
        ScanShape(2, 1, 3, 16, 3, ("x",)): 1,
        ScanShape(2, 1, 4, 16, 3, ("x",)): 1,
    }
    assert complexity.scan_updates == 2 * 2 * 3 * (
        2 * (2 * 12 * 16 * 4 + (12 + 16) * 4) // 2 + (2 * 3 * 4 * 16 + (3 + 4) * 16) // 2
    )


def test_counts_grow_with_batch_and_pixels():
    config = XYScanNetConfig(width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))
    one = count(config, 32, 32)
    assert count(config, 32, 32, batch=3).executed_macs == 3 * one.executed_macs
    assert one.parameters == count(config, 64, 32).parameters


def test_nothing_runs_to_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba may be missing."""
    config = XYScanNetConfig(width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))
    expected, module = count(config, 12, 12), sys.modules[backends.__module__]
    _count_configured.cache_clear()
    for name, value in (("_TABLE", module._TABLE), ("_active", dict(module._active)), ("_tried", False)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "numba", None)
    assert count(config, 12, 12) == expected and active_backend("cpu") == "reference"
