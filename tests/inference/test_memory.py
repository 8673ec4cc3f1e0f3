"""The memory model against the network's measured peak. Run as a program, it prints what it measures:

python tests/inference/test_memory.py '{"width": 24}' float32 512 768
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys

import pytest
import torch

from xyscannet.inference.plan import peak_bytes
from xyscannet.models import XYScanNet, XYScanNetConfig

BLOCKS = {"encoder_blocks": (1, 1, 1), "decoder_blocks": (1, 1, 1)}


def resident(key: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(key))


def growth(config: XYScanNetConfig, dtype: torch.dtype, height: int, width: int) -> int:
    """Bytes by which resident memory peaks above what it was before a pass (Linux)."""
    model = XYScanNet(config).eval().requires_grad_(False)

    def run(image: torch.Tensor) -> None:
        with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            model(image).float()

    run(torch.rand(1, 3, 32, 32))  # compiles the kernels
    image = torch.rand(1, 3, height, width)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")  # the peak is counted from here
    before = resident("VmRSS")
    run(image)
    return resident("VmHWM") - before


@pytest.mark.skipif(sys.platform != "linux", reason="measures through /proc")
@pytest.mark.parametrize(
    ("options", "dtype"), [({"width": 32}, "float32"), ({"width": 12, "d_state": 32}, "bfloat16")]
)
def test_prediction_is_near_what_is_measured(options: dict, dtype: str) -> None:
    size = 416, 360  # no size that the model was fitted to
    command = [sys.executable, __file__, json.dumps(options), dtype, *map(str, size)]
    measured = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    config = XYScanNetConfig(**BLOCKS, **options)
    predicted = peak_bytes(*size, config, dtype=getattr(torch, dtype), device="cpu")
    assert predicted == pytest.approx(measured, rel=0.25)


if __name__ == "__main__":
    text, name, *size = sys.argv[1:]
    print(growth(XYScanNetConfig(**BLOCKS, **json.loads(text)), getattr(torch, name), *map(int, size)))
