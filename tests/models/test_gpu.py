"""The network on a GPU gives what it gives on the CPU: images of the goals' sizes, gradients of a training step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.ops.compare import rms_ratio
from xyscannet.analysis import bench
from xyscannet.analysis.cases import Case, forward, trainable
from xyscannet.losses import charbonnier

pytestmark = pytest.mark.gpu
CASE = Case("xyscannet-b", 256, 256, "fp32", "auto")
PSNR = {"fp32": 80, "bf16": 45}  # dB between outputs; bf16 with random weights, on the CPU: 47.9


@pytest.fixture(scope="module")
def networks():
    """Networks with their weights, on the CPU."""
    return {name: bench.load(name)[0] for name in ("xyscannet-s", "xyscannet-b")}


def photograph(height: int, width: int) -> torch.Tensor:
    """Smooth structure at several scales, (1, 3, H, W) in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 3, height, width)
    for step in (2, 8, 32, 128):
        coarse = torch.randn(1, 3, height // step + 2, width // step + 2, generator=generator)
        image += torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return torch.sigmoid(image)


@pytest.fixture(scope="module")
def expected(networks):
    """Outputs on the CPU in float32, whose kernels are tested against float64."""
    found = {}
    for name in networks:
        for size in ((256, 256), (720, 1280)):
            with torch.inference_mode():
                found[name, size] = networks[name](photograph(*size))
    return found


@pytest.mark.slow  # 720x1280 on the CPU
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("form", ["unfused", "fused", "graph"])
@pytest.mark.parametrize("name", ["xyscannet-s", "xyscannet-b"])
def test_images(networks, expected, name, form, dtype):
    network = bench.load(name, "cuda")[0]
    for size in ((256, 256), (720, 1280)):
        run = forward(network, replace(CASE, form=form, dtype=dtype))
        image = photograph(*size)
        with torch.inference_mode():
            found = run(image.cuda()).float().cpu()
        error = found - expected[name, size]
        psnr = -10 * torch.log10(error.square().mean()).item()
        assert psnr >= PSNR[dtype], (size, psnr, float(error.abs().max()))
        residual = expected[name, size] - image
        assert rms_ratio(found - image, residual) < (1e-3 if dtype == "fp32" else 0.2)


@pytest.mark.slow  # 720x1280 on the CPU
def test_compiled_images(networks, expected):
    run = forward(bench.load("xyscannet-s", "cuda")[0], replace(CASE, form="compiled"))
    with torch.inference_mode():
        found = run(photograph(256, 256).cuda()).cpu()
    assert -10 * torch.log10((found - expected["xyscannet-s", (256, 256)]).square().mean()) >= PSNR["fp32"]


@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 1e-3), ("bf16", 0.15)])
@pytest.mark.parametrize("name", ["xyscannet-s", "xyscannet-b"])
def test_gradients_of_a_training_step(networks, name, dtype, bound):
    """The loss, and the gradient of every parameter, relative to the CPU's."""
    blur = torch.cat([photograph(256, 256), photograph(256, 256).flip(3)])
    results = []
    for device, kind in (("cpu", "fp32"), ("cuda", dtype)):
        network = trainable(networks[name]).to(device)
        run = forward(network, replace(CASE, form="unfused", dtype=kind))
        loss = charbonnier(run(blur.to(device)), blur.flip(2).to(device))
        grads = torch.autograd.grad(loss, list(network.parameters()))
        results.append((loss.item(), torch.cat([g.double().cpu().flatten() for g in grads]), grads))
    (expected_loss, whole, expected_grads), (loss, found_whole, grads) = results
    assert loss == pytest.approx(expected_loss, rel=bound)
    assert (found_whole - whole).norm() <= bound * whole.norm()
    if dtype == "fp32":
        names = [name for name, _ in networks[name].named_parameters()]
        far = {
            name: ratio
            for name, found, exact in zip(names, grads, expected_grads, strict=True)
            if (ratio := rms_ratio(found.cpu(), exact)) > 1e-2
        }
        assert not far
