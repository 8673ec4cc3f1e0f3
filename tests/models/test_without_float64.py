"""Networks on a device that has no float64, such as Apple's GPUs: nothing there asks for it.

The device is torch's `meta`, which runs what any device without kernels of ours does, and shows the types of it.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xyscannet.models import XYScanNet, XYScanNetConfig
from xyscannet.models.strips import Strips
from xyscannet.ops import hardware


class Refusing(TorchDispatchMode):
    """Raises for a tensor of float64 on the device, as MPS does."""

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        made = call(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta and tensor.dtype == torch.float64:
                raise TypeError(f"{call}: the device has no float64")
        return made


@pytest.fixture
def image(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.setattr(hardware, "_WITHOUT_FLOAT64", {"meta"})
    return torch.rand(1, 3, 64, 48, device="meta")


def network(**options: object) -> XYScanNet:
    config = XYScanNetConfig(width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1), **options)
    return XYScanNet(config).to("meta").eval()


@pytest.mark.parametrize("gate", ["element", "mean"])
def test_inference(image: torch.Tensor, gate: str) -> None:
    with Refusing(), torch.inference_mode():
        model = network(gate=gate)
        assert model(image).shape == model.fuse()(image).shape == image.shape
        assert Strips(model.fuse(), elements=4096)(image).shape == image.shape


def test_training(image: torch.Tensor) -> None:
    model = network().train()
    with Refusing():
        model(image).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_check_can_fail(image: torch.Tensor) -> None:
    with Refusing(), pytest.raises(TypeError, match="no float64"):
        image.double()


def test_products_are_taken_in_float32_there() -> None:
    assert hardware.widest(torch.device("mps")) == torch.float32
    assert hardware.widest(torch.device("cpu")) == torch.float64
