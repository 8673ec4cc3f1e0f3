"""The fused mixer's Triton kernels: compiled for GPUs that need not be there, and run where one is."""

from __future__ import annotations

import pytest
import torch

from tests.ops.compare import BOUND, mixer_inputs, rms_ratio
from tests.ops.triton_compiling import compiled
from xyscannet.ops import use_backend
from xyscannet.ops.mixer import mamba_mixer

LAUNCHES = """
from xyscannet.ops.mixer import triton as mixer
watch(mixer.kernels, "convolve_and_project", "walk")
dtype = getattr(torch, "TYPE")
for height, width in ((3, 5), (1, 1), (16, 128), (2, 2)):
    weights = [torch.zeros(shape) for shape in ((48, 4), (48,), (34, 48), (48, 2), (48,), (48, 16), (48,))]
    xz, out = (torch.zeros(2, height, width, 2, n, dtype=dtype) for n in (96, 48))
    mixer.forward(xz, *weights, ("x", "y"), out)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "dtype"), [(80, "float32"), (90, "bfloat16")])
def test_one_binary_without_spills_serves_every_size(capability, dtype, tmp_path):
    made = compiled(LAUNCHES.replace("TYPE", dtype), capability, tmp_path)
    for name in ("convolve_and_project", "walk"):
        (binary,) = made[name]
        assert 16 < binary["REG"] < 255 and not binary["STACK"] and not binary["LOCAL"], binary
        assert not binary["narrow steps"] and set(binary["offsets"]) <= {"i64"}, binary


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("height", "width", "channels"), [(63, 129, 36), (720, 33, 48), (33, 1280, 144)])
def test_on_gpu(height, width, channels, dtype):
    rank = -(-channels // 32)
    inputs = mixer_inputs(2, height, width, 2, channels, rank, dtype=dtype)
    inputs = {name: x.cuda() for name, x in inputs.items()}
    with torch.no_grad():
        found = mamba_mixer(**inputs, directions=("x", "y"))
        exact = {name: x.double() for name, x in inputs.items()}
        with use_backend("triton"):
            expected = mamba_mixer(**exact, directions=("x", "y"))  # float64: operator by operator
    assert rms_ratio(found, expected) <= BOUND[dtype]
