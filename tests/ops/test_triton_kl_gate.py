"""The gated sum's Triton kernels: compiled for GPUs that need not be there, and run where one is."""

from __future__ import annotations

import pytest
import torch

from tests.ops.compare import BOUND, assert_matches_reference, run
from tests.ops.test_kl_gate import GATES, kl_inputs
from tests.ops.triton_compiling import assert_sound, compiled
from xyscannet.ops.kl_gate import kl_gated_sum

LAUNCHES = """
from xyscannet.ops.kl_gate import triton as kl
watch(kl.kernels, "forward", "backward", "sums")

def image(channels, height, width):
    x = torch.zeros(2, channels, height, width, dtype=getattr(torch, "TYPE"))
    return x.contiguous(memory_format=torch.channels_last)

for height, width in ((8, 4), (4, 16), (16, 64), (4, 4)):
    x, a = image(CHANNELS, height, width), image(CHANNELS, height // 2, width)
    b = image(CHANNELS, height // 4, width // 4)
    gates = torch.zeros(2, 2) if MEAN else None
    kl.forward(x, a, b, x, gates)
    kl.backward(x, x, a, b, gates, (x, x, x))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "dtype", "mean", "channels"),
    [(80, "float32", True, 36), (90, "bfloat16", False, 48)],
)
def test_one_sound_binary_serves_every_size(capability, dtype, mean, channels, tmp_path):
    script = LAUNCHES.replace("TYPE", dtype).replace("CHANNELS", str(channels)).replace("MEAN", str(mean))
    made = compiled(script, capability, tmp_path)
    assert_sound(made["forward"], registers=128)
    assert_sound(made["backward"], registers=128)
    if mean:
        assert_sound(made["sums"], registers=128, count=2)  # of divergences and of products
    wide = "v4.b32" if channels == 48 or dtype == "float32" else "v2.b32"
    assert any(wide in moved for moved in made["forward"][0]["moved"])


def _on_gpu(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.detach().cuda().requires_grad_() for name, x in inputs.items()}


@pytest.mark.gpu
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("size", "factors"),
    [
        ((1, 12, 1, 1), ((1, 1), (1, 1))),
        ((3, 24, 63, 129), ((1, 1), (3, 43))),
        ((2, 36, 64, 136), ((2, 2), (4, 4))),
        ((2, 48, 128, 256), ((2, 2), (4, 4))),
        ((1, 72, 128, 130), ((1, 2), (2, 1))),
        ((2, 144, 32, 40), ((1, 1), (4, 4))),
    ],
)
def test_on_gpu(size, factors, dtype, gate):
    bound = {**BOUND, torch.float32: 2e-5}[dtype]  # means are of many elements
    assert_matches_reference(kl_gated_sum, _on_gpu(kl_inputs(size, factors, dtype)), bound, gate=gate)


@pytest.mark.gpu
@pytest.mark.parametrize("gate", GATES)
def test_twice_the_same_bits_on_gpu(gate):
    inputs = _on_gpu(kl_inputs((2, 48, 128, 128), ((2, 2), (4, 4)), torch.bfloat16))
    results, grads, weights = run(kl_gated_sum, inputs, gate=gate)
    for _ in range(3):
        again, more, _ = run(kl_gated_sum, inputs, weights, gate=gate)
        assert torch.equal(results[0], again[0]) and all(torch.equal(grads[n], more[n]) for n in inputs)


@pytest.mark.gpu
@pytest.mark.parametrize("gate", GATES)
def test_beyond_31_bits_of_offset_on_gpu(gate):
    """Pixels 2**29 elements apart."""
    storage = torch.empty(5 * 2**29 + 16, device="cuda", dtype=torch.bfloat16)
    inputs = _on_gpu(kl_inputs((1, 16, 2, 3), dtype=torch.bfloat16))
    far = storage.as_strided((1, 16, 2, 3), (6 * 2**29, 1, 3 * 2**29, 2**29))
    inputs["first"] = far.copy_(inputs["first"].detach()).detach().requires_grad_()
    assert_matches_reference(kl_gated_sum, inputs, gate=gate)
