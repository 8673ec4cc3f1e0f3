"""CUDA graphs: when one is captured and replayed, with a stand-in on the CPU; that results are right, on a GPU."""

from __future__ import annotations

import contextlib

import pytest
import torch

from xyscannet.inference import graphs
from xyscannet.inference.graphs import CudaGraphs
from xyscannet.inference.restore import restore
from xyscannet.inference.scales import restore_at_scales
from xyscannet.models import XYScanNetConfig, zoo
from xyscannet.ops import use_backend

TINY = XYScanNetConfig(width=8, encoder_blocks=(1, 0, 0), decoder_blocks=(1, 0, 0))


class Counting(torch.nn.Module):
    config = TINY

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.result(x)

    def result(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Growing(Counting):
    """Changes pictures more at each smaller size."""

    config = XYScanNetConfig(width=8, scanners=("ss2d", "ss2d"))  # runs in no strips

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1), requires_grad=False)

    def result(self, x: torch.Tensor) -> torch.Tensor:
        return x + 20 / x.shape[2]


class Replayed:
    """In the place of a CUDA graph: replaying is computing again on the captured input."""

    captured = 0

    def __init__(self, network, x, dtype) -> None:
        type(self).captured += 1
        self.network = network

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.network.result(x)


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(graphs, "_Captured", Replayed)
    monkeypatch.setattr(Replayed, "captured", 0)
    monkeypatch.setattr(CudaGraphs, "_suits", lambda self, x: x.shape[-1] * x.shape[-2] <= self.most_pixels)


def test_on_the_cpu_the_network_itself_runs():
    network = Counting()
    graphed = CudaGraphs(network)
    with torch.inference_mode():
        for _ in range(5):
            graphed(torch.ones(1, 3, 4, 4))
    assert network.calls == 5 and graphed.config is TINY


def test_a_size_is_captured_at_its_third_time(stand_in):
    network = Counting()
    graphed = CudaGraphs(network)
    for _ in range(6):
        assert torch.equal(graphed(torch.ones(1, 3, 4, 4)), torch.full((1, 3, 4, 4), 2.0))
    assert network.calls == 2 and Replayed.captured == 1


def test_a_graph_is_of_its_backend_and_arithmetic(stand_in, monkeypatch):
    network = Counting()
    graphed, image = CudaGraphs(network), torch.ones(1, 3, 4, 4)
    for _ in range(4):
        graphed(image)
    with use_backend("reference"):
        graphed(image)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", not torch.backends.cudnn.allow_tf32)
    graphed(image)
    assert network.calls == 4 and Replayed.captured == 1


def test_all_that_a_picture_asks_for_is_kept(stand_in):
    """Just above the size at which large windows are looked at first: four scales, and windows of two of them."""
    graphed = CudaGraphs(Growing())
    image = torch.full((1, 3, 1030, 1030), 0.3)
    for _ in range(3):
        _, shares = restore_at_scales(graphed, image)
    assert shares[0, 3] == 1 and Replayed.captured == 6
    restore_at_scales(graphed, image)
    assert Replayed.captured == 6


def test_memory_that_runs_out_drops_graphs(stand_in):
    graphed, said = CudaGraphs(Growing()), []
    image = torch.zeros(1, 3, 400, 400)
    for _ in range(3):
        restore(graphed, image)
    (key,) = graphed._captured

    def run_out(x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    graphed._captured[key] = run_out
    restored = restore(graphed, image, tell=said.append)
    assert len(said) == 1 and "memory ran out" in said[0] and key not in graphed._captured
    assert restored.shape == image.shape and restored.min() > 0.049  # 20 / 400, or more in tiles


def test_only_the_sizes_used_last_are_kept(stand_in):
    graphed = CudaGraphs(Counting(), room=2)
    for size in (4, 5, 6, 4, 5, 6, 4, 5, 6):
        graphed(torch.ones(1, 3, size, size))
    assert Replayed.captured == 3 and len(graphed._captured) == 2
    graphed(torch.ones(1, 3, 6, 6))
    assert Replayed.captured == 3
    graphed.forget()
    assert not graphed._captured


def test_large_images_and_failed_captures_run_plainly(stand_in, monkeypatch, caplog):
    network = Counting()
    graphed = CudaGraphs(network, most_pixels=100)
    for _ in range(4):
        graphed(torch.ones(1, 3, 16, 16))
    assert network.calls == 4 and not Replayed.captured

    def broken(*args):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(graphs, "_Captured", broken)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    for _ in range(4):
        graphed(torch.ones(1, 3, 4, 4))
    assert network.calls == 8
    assert len(caplog.records) == 1 and "1x3x4x4" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_replayed_forward_equals_the_networks_own(dtype):
    torch.manual_seed(0)
    network = zoo.build(TINY).eval().requires_grad_(False).cuda()
    torch.nn.init.normal_(network.output.weight, std=0.2)
    graphed = CudaGraphs(network.fuse())
    images = torch.rand(8, 1, 3, 64, 48, device="cuda")
    with torch.inference_mode():
        for image in images:
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                found, expected = graphed(image), graphed.network(image)
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
            with contextlib.suppress(RuntimeError):
                torch.empty(2**20, device="cuda").fill_(
                    float("nan")
                )  # memory outside the graph changes hands
    assert len(graphed._captured) == 1
