"""A trace counts every operator and its memory."""

from __future__ import annotations

import json

import pytest
import torch

from xyscannet import checkpoint
from xyscannet.analysis.cases import Case
from xyscannet.analysis.trace import _profile, _Traffic, trace
from xyscannet.models import XYScanNet, XYScanNetConfig

TINY = XYScanNetConfig(width=8, encoder_blocks=(1, 0, 1), decoder_blocks=(1, 0, 1), d_state=4)


def test_traffic_is_inputs_and_outputs_once_and_no_views():
    x = torch.zeros(4, 5)
    with _Traffic() as traffic:
        y = x.t().reshape(-1) + 1
        y.mul_(y)
        torch.empty(1000)
        with torch.profiler.record_function("a step"):
            pass
    assert traffic.calls == {"aten::clone": 1, "aten::add": 1, "aten::mul_": 1}
    assert traffic.bytes == {"aten::clone": 160, "aten::add": 160, "aten::mul_": 80}


def test_the_time_of_a_call_within_another_is_counted_once(tmp_path):
    x = torch.zeros(3000)

    def run() -> None:
        torch._foreach_mul_([x, x], 2.0)  # calls mul_ twice
        x.mul_(2)

    with _Traffic() as traffic:
        run()
    assert traffic.calls == {"aten::_foreach_mul_": 1, "aten::mul_": 1}
    seconds = _profile(run, tmp_path / "timeline.json", torch.device("cpu"), traffic.calls)
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    calls = sorted(
        (each for each in events if each.get("name") in traffic.calls), key=lambda each: each["ts"]
    )
    assert [each["name"] for each in calls] == ["aten::_foreach_mul_", *["aten::mul_"] * 3]
    for call in (calls[0], calls[-1]):
        assert seconds[call["name"]] == pytest.approx(call["dur"] / 1e6, abs=1e-8)


@pytest.mark.parametrize("train", [False, True])
def test_every_scan_is_in_it(tmp_path, train):
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(path, XYScanNet(TINY), TINY)
    case = Case(str(path), 16, 24, "fp32", "cpu", "unfused", 2, train)
    found = trace(case, tmp_path / "timeline.json", repeats=1)
    spent = {each.operator: each for each in found.operators}
    scan = "xyscannet::scan" if train else "xyscannet::mixer"  # what is around it comes along
    assert spent[scan].calls == 2 * 3  # an intra scan and two inter scans a decoder block
    assert ("xyscannet::scan_backward" in spent) == train
    assert [each.seconds for each in found.operators] == sorted(
        (e.seconds for e in found.operators), reverse=True
    )
    assert 0 < spent[scan].seconds < sum(each.seconds for each in found.operators)
    assert found.floor == pytest.approx(found.bytes / found.bandwidth)
    events = json.loads((tmp_path / "timeline.json").read_text())["traceEvents"]
    assert sum(event.get("name") == scan for event in events) == 6
