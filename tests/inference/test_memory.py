"""The memory model against the network's measured peak. Run as a program, it measures resident memory:

python tests/inference/test_memory.py '{"width": 24}' float32 4194304 512 768

with channels x pixels of a strip, 0 for none.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the command line does, before torch allocates

import torch

from xyscannet.inference.memory import live_numbers, live_numbers_in_strips, peak_bytes
from xyscannet.inference.precision import arithmetic
from xyscannet.models import XYScanNet, XYScanNetConfig
from xyscannet.models.strips import ELEMENTS, FEW_ELEMENTS, Strips

BLOCKS = {"encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1)}  # the peak does not depend on more


def prepared(options: dict, strips: int, dtype: torch.dtype) -> Callable[[torch.Tensor], None]:
    """One pass of a folded network; kernels are compiled."""
    network = XYScanNet(XYScanNetConfig(**BLOCKS | options)).eval().requires_grad_(False).fuse()
    model = Strips(network, strips) if strips else network

    def run(image: torch.Tensor) -> None:
        with torch.inference_mode(), arithmetic("cpu", dtype):
            model(image).float()

    run(torch.rand(1, 3, 32, 32))
    return run


def operator_by_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with other types than float32: what a block's steps make in between are whole maps."""
    for package in ("blocks", "mixer"):
        monkeypatch.setattr(f"xyscannet.ops.{package}.infers_here", lambda *tensors: False)


def live(run: Callable[[torch.Tensor], None], height: int, width: int) -> int:
    """Bytes of torch's tensors that live at the peak of a pass."""
    image = torch.rand(1, 3, height, width)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        run(image)
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


def resident(key: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))


def growth(run: Callable[[torch.Tensor], None], height: int, width: int) -> int:
    """Bytes by which resident memory peaks above what it was before a pass (Linux)."""
    image = torch.rand(1, 3, height, width)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # the peak is counted from here
    before = resident("VmRSS")
    run(image)
    return resident("VmHWM") - before


@pytest.mark.parametrize(
    "options",
    [
        {"width": 24},
        {"width": 16, "bidirectional": True},
        {"width": 8, "d_state": 64, "decoder_blocks": (2, 0, 0)},
        {"width": 16, "expand": 4},
        {"width": 8, "ffn_expansion": 4},
        {"width": 16, "scanners": ("inter", "inter")},
        {"width": 16, "fusion": "aff", "scanners": ("inter", "inter")},
    ],
    ids=str,
)
@pytest.mark.parametrize("tiled", [True, False])
def test_what_lives_at_the_peak_is_counted(
    options: dict, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tiled:
        operator_by_operator(monkeypatch)
    size = 60, 76
    config = XYScanNetConfig(**BLOCKS | options)
    measured = live(prepared(options, 0, torch.float32), *size) / 4 / (size[0] * size[1])
    assert live_numbers(config, tiled) == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize(
    "options",
    [{"width": 8}, {"width": 16, "scanners": ("inter", "inter")}, {"width": 8, "d_state": 64}],
    ids=str,
)
@pytest.mark.parametrize("tiled", [True, False])
def test_what_lives_at_the_peak_in_strips_is_counted(
    options: dict, tiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tiled:
        operator_by_operator(monkeypatch)
    elements, size = 2**15, (64, 480)  # several strips
    measured = live(prepared(options, elements, torch.float32), *size) / 4
    counted = live_numbers_in_strips(*size, XYScanNetConfig(**BLOCKS | options), elements, tiled)
    assert counted == pytest.approx(measured, rel=0.15)


@pytest.mark.skipif(sys.platform != "linux", reason="measures through /proc")
@pytest.mark.parametrize(
    ("options", "strips", "size", "threads"),
    [
        ({"width": 32}, 0, (416, 360), 1),
        ({"width": 32}, 0, (416, 360), 2),
        ({"width": 32}, FEW_ELEMENTS, (512, 640), 2),
        ({"width": 24}, ELEMENTS, (512, 704), 1),
    ],
)
def test_prediction_is_near_what_is_measured(
    options: dict, strips: int, size: tuple[int, int], threads: int
) -> None:
    """In one of five processes: the heap's gaps are others in each."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    config = XYScanNetConfig(**BLOCKS | options)
    predicted = peak_bytes(*size, config, dtype=torch.float32, device="cpu", strips=strips)
    torch.set_num_threads(before)
    command = [sys.executable, __file__, json.dumps(options), "float32", *map(str, (strips, *size))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    measured: list[int] = []
    while len(measured) < 5 and not any(predicted == pytest.approx(each, rel=0.15) for each in measured):
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        measured.append(int(done.stdout))
    assert any(predicted == pytest.approx(each, rel=0.15) for each in measured), (predicted, measured)


if __name__ == "__main__":
    text, dtype, *numbers = sys.argv[1:]
    strips, *size = map(int, numbers)
    print(growth(prepared(json.loads(text), strips, getattr(torch, dtype)), *size))
