"""The gates' Triton kernels: compiled for GPUs that need not be there, and run where one is."""

from __future__ import annotations

import pytest
import torch

from tests.ops.compare import BOUND, assert_matches_reference, run
from tests.ops.test_line_gate import line_inputs
from tests.ops.triton_compiling import assert_sound, compiled
from xyscannet.ops.line_gate import line_gate

LAUNCHES = """
from xyscannet.ops.line_gate import triton as lines
watch(lines.kernels, "gate", "sums")
dtype = getattr(torch, "TYPE")
for height, width in ((8, 4), (1, 1), (16, 64), (5, 129)):
    x = torch.zeros(2, CHANNELS, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)
    down, across = (torch.zeros(2, n, CHANNELS // 2, dtype=dtype) for n in (height, width))
    lines.forward(x, down, across, x)
    lines.backward(x, x, down, across, (x, down, across))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "dtype", "channels"), [(80, "float32", 36), (90, "bfloat16", 48)])
def test_sound_binaries_serve_every_size(capability, dtype, channels, tmp_path):
    made = compiled(LAUNCHES.replace("TYPE", dtype).replace("CHANNELS", str(channels)), capability, tmp_path)
    assert_sound(made["gate"], registers=128)
    assert_sound(made["sums"], registers=192, count=2)  # of rows, and of columns
    wide = "v4.b32" if channels == 48 or dtype == "float32" else "v2.b32"
    assert any(wide in moved for moved in made["gate"][0]["moved"])


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [(1, 12, 1, 1), (3, 24, 63, 129), (2, 48, 256, 128), (2, 144, 33, 40)])
def test_on_gpu(size, dtype):
    inputs = {name: x.detach().cuda().requires_grad_() for name, x in line_inputs(size, dtype).items()}
    assert_matches_reference(line_gate, inputs, {**BOUND, torch.float32: 2e-5}[dtype])


@pytest.mark.gpu
def test_twice_the_same_bits_on_gpu():
    inputs = line_inputs((2, 48, 128, 129), torch.bfloat16)
    inputs = {name: x.detach().cuda().requires_grad_() for name, x in inputs.items()}
    results, grads, weights = run(line_gate, inputs)
    for _ in range(3):
        again, more, _ = run(line_gate, inputs, weights)
        assert torch.equal(results[0], again[0]) and all(torch.equal(grads[n], more[n]) for n in inputs)
