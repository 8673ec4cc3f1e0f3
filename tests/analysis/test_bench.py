"""The benchmark measures what it says, on networks small enough for a test."""

from __future__ import annotations

import math

import pytest
import torch

from xyscannet import checkpoint
from xyscannet.analysis import bench
from xyscannet.models import XYScanNet, XYScanNetConfig

TINY = XYScanNetConfig(width=8, encoder_blocks=(1, 0, 1), decoder_blocks=(1, 0, 1), d_state=4)


@pytest.fixture
def tiny(tmp_path):
    torch.manual_seed(0)
    model = XYScanNet(TINY)
    torch.nn.init.normal_(model.output.weight, std=0.05)
    path = tmp_path / "tiny.safetensors"
    checkpoint.save(path, model, TINY)
    return path


def test_every_combination_is_measured(tiny):
    told = []
    results = list(
        bench.run(
            [str(tiny)],
            [(32, 48), (16, 16)],
            ["fp32", "bf16"],
            ["cpu", "reference"],
            repeats=2,
            memory=False,
            tell=told.append,
        )
    )
    cases = [(r.case.height, r.case.width, r.case.dtype, r.case.scan) for r in results]
    assert len(set(cases)) == len(cases) == 8
    for result in results:
        assert result.weights == tiny.name
        assert result.repeats == 2
        assert result.peak_bytes is None
        assert result.scan_seconds > 0
        assert result.megapixels_per_second == pytest.approx(
            result.case.height * result.case.width / result.seconds / 1e6
        )
    assert told


def test_parity_is_close_and_not_trivial(tiny):
    model, _ = bench.load(str(tiny))
    error, psnr = bench.compare(model, "fp32", "cpu")
    assert 0 < error < 1e-4
    assert psnr > 80
    low_error, low_psnr = bench.compare(model, "bf16", "cpu")
    assert error < low_error < 0.1
    assert 40 < low_psnr < psnr


def test_a_broken_network_shows_in_the_parity(tiny, monkeypatch):
    model, _ = bench.load(str(tiny))
    right = model.forward
    monkeypatch.setattr(model, "forward", lambda x: right(x) + 0.1)
    error, psnr = bench.compare(model, "fp32", "cpu")
    assert error == pytest.approx(0.1, rel=1e-3)
    assert psnr == pytest.approx(20, abs=0.1)


def test_results_that_are_not_finite_are_not_hidden(tiny, monkeypatch):
    model, _ = bench.load(str(tiny))
    right = model.forward
    monkeypatch.setattr(model, "forward", lambda x: right(x) * math.nan)
    error, psnr = bench.compare(model, "fp32", "cpu")
    assert math.isnan(error)
    assert math.isnan(psnr)


def test_random_weights_are_told_and_give_a_residual(monkeypatch):
    info = bench.zoo.info("xyscannet-s")
    monkeypatch.setattr(bench.zoo, "info", lambda name: type(info)(name, TINY, 0, None, ""))
    monkeypatch.setattr(bench.zoo, "build", lambda _: XYScanNet(TINY))
    before = torch.random.get_rng_state()
    model, weights = bench.load("xyscannet-s")
    assert torch.equal(before, torch.random.get_rng_state())
    assert weights == "random"
    image = torch.rand(1, 3, 32, 32)
    assert 0.02 < float((model(image) - image).std()) < 0.1


def test_rates_follow_from_the_time():
    case = bench.Case("x", 100, 200, "fp32", "cpu")
    complexity = bench.Complexity(
        7, 3_000_000_000, 2_000_000_000, {bench.ScanShape(1, 2, 3, 4, 5, ("x",)): 2}, {}
    )
    result = bench._result(
        case, "w", complexity, bench.Timing((0.5, 9.0, 0.4)), 0.01, 3 << 20, (1e-6, math.inf)
    )
    assert (result.seconds, result.gmacs, result.gflops) == (0.5, 3.0, 8.0)
    assert result.megapixels_per_second == 0.04
    assert result.scan_rate == 240 / 0.01


@pytest.mark.slow
def test_memory_of_a_forward(tiny):
    case = bench.Case(str(tiny), 512, 512, "fp32", "cpu")
    peak = bench.peak_memory(bench._prepare, case, "cpu")
    assert 512 * 512 * 4 * 8 < peak < 512 * 512 * 4 * 8 * 40  # between one and forty feature maps
