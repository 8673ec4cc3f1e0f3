"""The operators' benchmark: the traffic it counts, and that what it times is the operator at the network's shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.ops.compare import rms_ratio
from xyscannet.analysis import operators, timing
from xyscannet.models import XYScanNet, XYScanNetConfig
from xyscannet.ops import slice_scan

TINY = XYScanNetConfig(width=8, encoder_blocks=(1, 0, 1), decoder_blocks=(1, 0, 1), d_state=4)
PLACE = operators.Place(TINY, 2, 6, 10, torch.float32, torch.device("cpu"))


@pytest.fixture(autouse=True)
def plenty_of_memory(monkeypatch):
    """None is looked for before each of the many calls, which takes longer than they do."""
    monkeypatch.setattr(timing, "give_back", lambda: None)
    monkeypatch.setattr(operators, "copy_bandwidth", lambda device: 1e10)  # tests/analysis/test_timing.py


@pytest.mark.parametrize("train", [False, True])
def test_every_operator_is_measured(train):
    told = []
    results = list(
        operators.measure(
            "tiny",
            TINY,
            [(6, 10)],
            ["fp32", "bf16"],
            ["cpu", "reference"],
            train=train,
            repeats=1,
            tell=told.append,
        )
    )
    assert len({result.case for result in results}) == 2 * 2 * len(operators.OPERATORS)
    assert "GB/s" in told[0]
    for result in results:
        assert result.seconds > 0
        assert result.rate == pytest.approx(result.bytes / result.seconds)
        assert result.case.backend != "cpu" or result.time_ratio == 1


def test_traffic_of_a_layer_norm():
    """Read and written once; with the backward read again, with the output's gradient, and its own written."""
    image, weights = 2 * 8 * 6 * 10 * 4, 2 * 8 * 4
    norm = operators.OPERATORS["layer norm"]
    assert operators._traffic(norm, PLACE, False) == 2 * image + weights
    assert operators._traffic(norm, PLACE, True) == 5 * image + 3 * weights
    half = replace(PLACE, dtype=torch.bfloat16)
    assert operators._traffic(norm, half, False) == image + weights


@pytest.mark.parametrize("name", operators.OPERATORS)
def test_outputs_are_as_large_as_counted(name):
    operator = operators.OPERATORS[name]
    function, inputs = operator.make(PLACE)
    made = function(*inputs)
    made = made if isinstance(made, tuple) else (made,)
    assert sum(x.numel() for x in made) == operator.made(inputs[0])


def test_the_mixer_is_the_networks():
    """The same types and shapes as the first level's mixer gets in a forward."""
    seen = []
    network = XYScanNet(TINY).eval()
    mixer = network.decoder_level1[0].vssm1.scanner.mamba
    mixer.register_forward_pre_hook(lambda module, given: seen.append(given))
    with torch.no_grad():
        network(torch.rand(2, 3, 6 * 4, 10 * 4))
    _, (xz, taps, *_, dt_weight, _, A, _) = operators.OPERATORS["mixer"].make(
        replace(PLACE, height=24, width=40)
    )
    x, directions = seen[0]
    assert xz.shape == (*x.shape[:4], mixer.in_proj.out_features)
    assert directions == ("x", "y")
    assert taps.shape == mixer.conv1d.weight[:, 0].shape
    assert dt_weight.shape == mixer.dt_proj.weight.shape and A.shape == mixer.A_log.shape


def test_out_of_memory_is_a_result(monkeypatch):
    def fail(case, place):
        raise MemoryError

    monkeypatch.setattr(operators, "_call", fail)
    results = list(operators.measure("tiny", TINY, [(6, 10)], ["fp32"], ["cpu"], repeats=1))
    assert all(result.seconds is None and result.share is None for result in results)


def test_mamba_ssm_gets_the_same_rows(monkeypatch):
    """Its layout, (rows, E, L), is made from the same maps: a scan in that layout gives the same values."""
    from xyscannet.ops import selective_scan_fn

    monkeypatch.setattr(operators, "mamba_scan", lambda: selective_scan_fn)
    call, inputs = operators.OPERATORS["scan, intra"].make(PLACE)
    theirs, lines = operators._for_mamba_ssm(inputs)
    assert all(x.is_contiguous() for x in lines[3:])
    down_rows, down_columns = theirs(*lines)
    u = inputs[0]
    rows = down_rows.unflatten(0, (2, 6)).permute(0, 1, 3, 2)  # (B, H, W, E)
    columns = down_columns.unflatten(0, (2, 10)).permute(0, 3, 1, 2)
    expected = call(*inputs)
    assert expected.shape == u.shape
    assert rms_ratio(torch.stack([rows, columns], 3), expected) < 1e-6


def test_scans_are_slice_scans():
    call, inputs = operators.OPERATORS["scan, inter"].make(PLACE)
    u, delta, A, B, C, D, z, bias = inputs
    assert u.shape == (2, 1, 6, 1, 8)
    expected = slice_scan(u, delta, A, B, C, D, z, bias, True, ("x",))
    torch.testing.assert_close(call(*inputs), expected)
