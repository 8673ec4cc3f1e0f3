"""A network small enough for tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny network that visibly changes its input."""
    import torch

    from xyscannet import checkpoint
    from xyscannet.models import XYScanNet, XYScanNetConfig

    torch.manual_seed(0)
    config = XYScanNetConfig(width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))
    model = XYScanNet(config)
    torch.nn.init.normal_(model.output.weight, std=0.05)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    checkpoint.save(path, model, config)
    return path
