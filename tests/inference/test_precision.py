"""The arithmetic of a forward is what it is said to be, and nothing of it stays."""

from __future__ import annotations

import pytest
import torch
from torch.backends import cuda, cudnn

from xyscannet.inference import restore
from xyscannet.inference.precision import arithmetic


@pytest.mark.parametrize(
    ("dtype", "tf32"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)]
)
def test_products_run_in_the_type(dtype, tf32, monkeypatch):
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    a = torch.ones(2, 2)
    with arithmetic("cpu", dtype, tf32):
        assert (a @ a).dtype == dtype
        assert cudnn.allow_tf32 == cuda.matmul.allow_tf32 == tf32
    assert (a @ a).dtype == torch.float32
    assert cudnn.allow_tf32 and not cuda.matmul.allow_tf32


def test_it_is_left_after_an_error_too(monkeypatch):
    monkeypatch.setattr(cudnn, "allow_tf32", True)
    with pytest.raises(KeyError), arithmetic("cpu", torch.float32):
        raise KeyError
    assert cudnn.allow_tf32


def test_photographs_in_float32_are_restored_without_tf32(monkeypatch):
    from xyscannet.models import XYScanNet, XYScanNetConfig

    monkeypatch.setattr(cudnn, "allow_tf32", True)
    network = XYScanNet(XYScanNetConfig(width=8, encoder_blocks=(1, 0, 0), decoder_blocks=(1, 0, 0))).eval()
    seen = []
    network.register_forward_pre_hook(lambda module, given: seen.append(cudnn.allow_tf32))
    restore(network, torch.rand(1, 3, 8, 8), dtype=torch.float32)
    assert seen == [False] and cudnn.allow_tf32
