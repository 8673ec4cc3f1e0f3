"""The benchmark measures what it says, on networks small enough for a test."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from xyscannet import checkpoint
from xyscannet.analysis import bench, forms
from xyscannet.errors import ConfigError, UnavailableError
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


def case(**changes):
    return bench.Case(**{"model": "", "height": 0, "width": 0, "dtype": "fp32", "scan": "cpu", **changes})


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
    high = bench.compare(model, case())
    assert 0 < high.max_error < 1e-4
    assert high.psnr > 80
    low = bench.compare(model, case(dtype="bf16"))
    assert high.max_error < low.max_error < 0.1
    assert 40 < low.psnr < high.psnr
    assert high.gradient_error is None
    steps = [
        bench.compare(model, case(dtype=dtype, form="unfused", train=True)) for dtype in ("fp32", "bf16")
    ]
    assert 0 < steps[0].gradient_error < 1e-4 < steps[1].gradient_error < 0.1
    assert steps[0].psnr is None


def test_a_broken_network_shows_in_the_parity(tiny, monkeypatch):
    model, _ = bench.load(str(tiny))
    right = model.forward
    monkeypatch.setattr(model, "forward", lambda x: right(x) + 0.1)
    parity = bench.compare(model, case(form="unfused"))
    assert parity.max_error == pytest.approx(0.1, rel=1e-3)
    assert parity.psnr == pytest.approx(20, abs=0.1)


def test_results_that_are_not_finite_are_not_hidden(tiny, monkeypatch):
    model, _ = bench.load(str(tiny))
    right = model.forward
    monkeypatch.setattr(model, "forward", lambda x: right(x) * math.nan)
    parity = bench.compare(model, case(form="unfused"))
    assert math.isnan(parity.max_error)
    assert math.isnan(parity.psnr)


def test_random_weights_are_told_and_give_a_residual(monkeypatch):
    info = bench.zoo.info("xyscannet-s")
    monkeypatch.setattr(bench.zoo, "info", lambda name: type(info)(name, TINY, None, ""))
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
        7, 3_000_000_000, 2_000_000_000, {bench.ScanShape(1, 2, 3, 4, 5, ("x",)): 2}, {}, {}, 0
    )
    timing, parity = bench.Timing((0.5, 9.0, 0.4)), bench.Parity(1e-6, math.inf)
    result = bench._result(case, "w", complexity, timing, 0.01, 3 << 20, parity)
    assert (result.seconds, result.gmacs, result.gflops) == (0.5, 3.0, 8.0)
    assert (result.images_per_second, result.megapixels_per_second) == (2.0, 0.04)
    assert (result.scan_updates, result.scan_rate) == (240, 240 / 0.01)


def test_forms_and_training_take_turns(tiny, monkeypatch):
    monkeypatch.setattr(
        torch, "compile", partial(torch.compile, backend="eager")
    )  # traces, and needs no C++ compiler; what is compiled is tested in tests/models/test_compile.py
    options = {"repeats": 1, "memory": False}
    named = ["fused", "eager-loop", "strips", "compiled"]
    results = list(bench.run([str(tiny)], [(16, 24)], ["fp32"], ["cpu"], forms=named, **options))
    assert [(r.case.form, r.case.scan) for r in results] == [
        ("fused", "cpu"),
        ("eager-loop", "loop"),
        ("strips", "cpu"),
        ("compiled", "cpu"),
    ]
    assert all(result.psnr > 80 and result.seconds > 0 for result in results)
    assert results[0].scan_seconds > 0 and results[1].scan_seconds is None
    steps = list(
        bench.run(
            [str(tiny)],
            [(16, 16)],
            ["fp32"],
            ["cpu"],
            forms=["unfused", "eager-loop"],
            batch=2,
            passes=[True],
            **options,
        )
    )
    assert all(0 < step.gradient_error < 1e-4 and step.scan_seconds is None for step in steps)


@pytest.mark.parametrize(
    ("form", "train", "error", "message"),
    [
        ("fusd", False, ConfigError, "not one of"),
        ("fused", True, ConfigError, "for inference"),
        ("strips", True, ConfigError, "for inference"),
        ("graph", False, UnavailableError, "cuda only"),
        ("eager-cuda", False, UnavailableError, "cuda only"),
    ],
)
def test_forms_that_cannot_be(tiny, form, train, error, message):
    with pytest.raises(error, match=message):
        next(bench.run([str(tiny)], [(16, 16)], ["fp32"], ["cpu"], forms=[form], passes=[train]))


def test_a_graph_is_recorded_once_on_the_gpu_of_the_image(monkeypatch):
    recorded, forwards, image = [], [], torch.rand(1, 3, 16, 16)

    def record(function, *inputs):
        recorded.append((len(forwards), *inputs))
        return lambda x: x

    monkeypatch.setattr(forms, "CudaGraph", record)
    network = XYScanNet(TINY).eval()
    monkeypatch.setattr(network, "fuse", lambda: lambda x: forwards.append(x))
    run = forms.find("graph").make(network)
    assert run(image) is image and run(image) is image
    assert recorded == [(2, image)] and len(forwards) == 2


def test_sequences_of_the_whole_map_have_no_strips():
    network = XYScanNet(XYScanNetConfig(width=4, scanners=("ss2d", "ss2d")))
    with pytest.raises(ConfigError, match="does not run in strips"):
        forms.check("strips", network, torch.device("cpu"), False)


def test_a_training_step_trains_a_copy(tiny):
    model, _ = bench.load(str(tiny))
    before = [p.clone() for p in model.parameters()]
    step = bench.call(model, case(height=16, width=16, form="unfused", train=True))
    step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(p.requires_grad for p in model.parameters())


def test_ratios_are_to_the_first_of_size_and_type():
    def result(seconds, peak, **changes):
        complexity = bench.Complexity(7, 1, 1, {}, {}, {}, 0)
        timing = bench.Timing((seconds,) if seconds else ())
        return bench._result(case(**changes), "w", complexity, timing, None, peak, bench.Parity())

    given = [
        result(2.0, 30, height=8),
        result(1.0, 10, height=8, dtype="bf16"),
        result(6.0, 60, height=8, form="eager-loop"),
        result(None, None, height=8, dtype="bf16", form="eager-loop"),
        result(5.0, 50, height=9),
    ]
    ratios = [(r.time_ratio, r.memory_ratio) for r in bench.with_ratios(given)]
    assert ratios == [(1, 1), (1, 1), (3, 2), (None, None), (1, 1)]
    assert given[3].failure == "out of memory"
    only_types = [(r.time_ratio, r.memory_ratio) for r in bench.with_ratios(given[:2])]
    assert only_types == [(1, 1), (0.5, pytest.approx(1 / 3))]


def test_too_little_memory_is_a_row(tiny, monkeypatch):
    def fail(model, given):
        def step():
            raise torch.OutOfMemoryError("CUDA out of memory")

        return step if given.form == "unfused" else call(model, given)

    call = bench.call
    monkeypatch.setattr(bench, "call", fail)
    named = ["unfused", "fused"]
    options = {"repeats": 1, "memory": False}
    failed, fine = bench.run([str(tiny)], [(16, 16)], ["fp32"], ["cpu"], forms=named, **options)
    assert failed.failure == "out of memory" and failed.seconds is None and failed.gflops is None
    assert fine.seconds > 0


@pytest.mark.slow
def test_memory_of_a_forward(tiny):
    case = bench.Case(str(tiny), 512, 512, "fp32", "cpu")
    peak = bench.peak_memory(bench.prepare, case, "cpu")
    assert 512 * 512 * 4 * 8 < peak < 512 * 512 * 4 * 8 * 40  # between one and forty feature maps
