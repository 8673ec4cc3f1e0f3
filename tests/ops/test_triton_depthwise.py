"""The depth-wise convolution's Triton kernels: compiled for GPUs that need not be there, and on one."""

from __future__ import annotations

import pytest
import torch

from tests.ops.compare import BOUND, assert_matches_reference, run
from tests.ops.test_depthwise import FUNCTIONS, conv_inputs
from tests.ops.triton_compiling import assert_sound, compiled

LAUNCHES = """
from xyscannet.ops.depthwise import triton as conv
watch(conv.kernels, "convolve", "backward")

def image(channels, height, width):
    x = torch.zeros(2, channels, height, width, dtype=getattr(torch, "TYPE"))
    return x.contiguous(memory_format=torch.channels_last)

for height, width in ((8, 4), (1, 1), (16, 64), (5, 129)):
    weight = torch.zeros(2 * CHANNELS, 1, 3, 3)
    x, y = image(2 * CHANNELS, height, width), image(CHANNELS, height, width)
    for gated, out in ((False, x), (True, y)):
        conv.forward(x, weight, gated, out)
        conv.backward(out, x, weight, gated, (x, weight))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "dtype", "channels"), [(80, "float32", 36), (90, "bfloat16", 48)])
def test_sound_binaries_serve_every_size(capability, dtype, channels, tmp_path):
    script = LAUNCHES.replace("TYPE", dtype).replace("CHANNELS", str(channels))
    made = compiled(script, capability, tmp_path)
    assert_sound(made["convolve"], registers=192, count=3)  # plain, gated, and the gate's gradients
    assert_sound(made["backward"])
    wide = "v4.b32" if dtype == "float32" else "v2.b32"
    assert all(any(wide in moved for moved in binary["moved"]) for binary in made["convolve"])


def _on_gpu(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x.detach().cuda().requires_grad_() for name, x in inputs.items()}


@pytest.mark.gpu
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "size",
    [(1, 12, 1, 1), (3, 24, 63, 129), (2, 36, 64, 136), (2, 96, 128, 256), (1, 72, 1, 257), (2, 144, 33, 40)],
)
def test_on_gpu(size, dtype, function, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    bound = {**BOUND, torch.float32: 2e-5}[dtype]  # weights' gradients add up many terms
    assert_matches_reference(function, _on_gpu(conv_inputs(size, dtype)), bound)


@pytest.mark.gpu
@pytest.mark.parametrize("function", FUNCTIONS)
def test_twice_the_same_bits_on_gpu(function):
    inputs = _on_gpu(conv_inputs((2, 96, 128, 129), torch.bfloat16))
    results, grads, weights = run(function, inputs)
    for _ in range(3):
        again, more, _ = run(function, inputs, weights)
        assert torch.equal(results[0], again[0]) and all(torch.equal(grads[n], more[n]) for n in inputs)


@pytest.mark.gpu
@pytest.mark.parametrize("function", FUNCTIONS)
def test_beyond_31_bits_of_offset_on_gpu(function):
    """Pixels 2**29 elements apart."""
    storage = torch.empty(5 * 2**29 + 16, device="cuda", dtype=torch.bfloat16)
    inputs = _on_gpu(conv_inputs((1, 16, 2, 3), torch.bfloat16))
    far = storage.as_strided((1, 16, 2, 3), (6 * 2**29, 1, 3 * 2**29, 2**29))
    inputs["x"] = far.copy_(inputs["x"].detach()).detach().requires_grad_()
    assert_matches_reference(function, inputs)
