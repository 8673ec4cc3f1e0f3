"""What the variants of an ablation cost: measured once under the same conditions, and counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.analysis.ablations import TINY, make_plan
from xyscannet.analysis import ablation
from xyscannet.analysis.ablation import costs
from xyscannet.analysis.ablation.table import costs_file
from xyscannet.analysis.timing import Timing
from xyscannet.models import XYScanNetConfig

pytest.importorskip("skimage", reason="PSNR needs scikit-image")


def test_costs_are_measured_anew_under_other_conditions(gopro, tmp_path, monkeypatch):
    plan = make_plan(gopro, tmp_path)
    told: list[str] = []
    first = ablation.profile(plan, (16, 16), repeats=1, memory=False, tell=told.append)
    assert set(first["figures"]) == {"inter-only", "xyscannet"}
    assert told == ["time of a training step", "time of an inference"]
    assert first["figures"]["xyscannet"]["training memory (GB)"] is None
    told.clear()
    assert ablation.profile(plan, (16, 16), repeats=1, memory=False, tell=told.append) == first and not told
    ablation.profile(plan, (16, 24), repeats=1, memory=False, tell=told.append)
    assert told
    told.clear()
    updated = replace(plan, facts=plan.facts | {"versions": {"torch": "99"}})
    record = ablation.profile(updated, (16, 24), repeats=1, memory=False, tell=told.append)
    assert told and record["conditions"]["versions"] == {"torch": "99"}
    costs_file(tmp_path, "slices").write_text("{")
    assert costs.read(costs_file(tmp_path, "slices")) is None


def test_costs_of_variants_that_are_measured_one_by_one_are_kept_together(gopro, tmp_path, monkeypatch):
    measured, memory = [], []

    def measure(networks, conditions, tell):
        measured.append((*networks,))
        seconds = {"step seconds": len(measured), "inference seconds": memory.pop(0) if memory else 1}
        return dict.fromkeys(networks, seconds)

    monkeypatch.setattr(costs, "measure", measure)
    plan = make_plan(gopro, tmp_path)
    for variants in (["inter-only"], ["xyscannet"], ["inter-only"], ["inter-only", "xyscannet"]):
        record = ablation.profile(replace(plan, variants=variants), (16, 16))
    assert (
        measured == [("inter-only",), ("xyscannet",)] and costs.read(costs_file(tmp_path, "slices")) == record
    )
    assert {name: each["step seconds"] for name, each in record["figures"].items()} == {
        "inter-only": 1,
        "xyscannet": 2,
    }
    record = ablation.profile(replace(plan, variants=["xyscannet"]), (16, 24))
    assert set(record["figures"]) == {"xyscannet"}
    memory.append(None)  # too little of it, which another run may have
    for _ in range(3):
        ablation.profile(plan, (16, 32))
    assert len(measured) == 5


def test_parts_of_a_step_are_counted(monkeypatch):
    monkeypatch.setattr(costs, "time_in_turn", lambda calls, **_: {name: Timing((2.0,)) for name in calls})
    at = costs.Conditions(16, 4, 2, 16, 16, "fp32", "cpu", "here", repeats=1, memory=False)
    network = XYScanNetConfig.from_dict(TINY)
    figures = costs.measure({"a": network}, at)["a"]
    assert figures["step seconds"] == 4 and figures["training time (s)"] == 4 * 2103 / 4
    assert figures["inference seconds"] == 2


def test_counts_of_the_fusion_modules():
    columns = {"GMACs": "lower", "parameters (K)": "lower"}
    found = costs.counted(
        XYScanNetConfig(width=8, encoder_blocks=(0, 0, 0), decoder_blocks=(0, 0, 0)), columns
    )
    assert found["parameters (K)"] == pytest.approx(71.424 / 36) and found["GMACs"] > 0
    none = costs.counted(XYScanNetConfig(width=8, fusion="none"), columns)
    assert none["parameters (K)"] is None and none["GMACs"] is None
