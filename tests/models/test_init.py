"""The start that keeps signals' sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.conftest import DrawnPairs
from xyscannet.models import XYScanNet, XYScanNetConfig
from xyscannet.models.init import lecun_normal_
from xyscannet.models.vssm import VSSM
from xyscannet.training.loop import Trainer
from xyscannet.training.recipes import parse_config

CONFIG = XYScanNetConfig(width=16, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(5))


def _branches(model: nn.Module, image: torch.Tensor) -> list[float]:
    """Standard deviation of what each scanning branch adds to its block."""
    sizes: list[float] = []
    for module in model.modules():
        if isinstance(module, VSSM):
            module.register_forward_hook(lambda _, given, made: sizes.append(made.std().item()))
    with torch.no_grad():
        model(image)
    return sizes


def test_scanning_branches_start_alive(image: torch.Tensor) -> None:
    torch.manual_seed(0)
    plain = _branches(XYScanNet(CONFIG), image)
    torch.manual_seed(0)
    drawn = _branches(lecun_normal_(XYScanNet(CONFIG)), image)
    assert len(drawn) == 6
    # the Intra-Scanners, each the first of its block, lie behind the most maps
    assert max(plain[::2]) < 0.005
    assert all(0.02 < size < 1.5 for size in drawn)


def test_what_has_a_start_of_its_own_keeps_it(image: torch.Tensor) -> None:
    torch.manual_seed(0)
    plain = XYScanNet(CONFIG)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    after = lecun_normal_(plain).state_dict()
    kept = {name for name in before if torch.equal(before[name], after[name])}
    drawn = {name.split(".")[-2] for name in set(before) - kept}
    assert drawn == {
        *("patch_embed", "conv", "project_in", "project_out", "dwconv", "reduce_level1", "reduce_level2"),
        *("proj_in", "proj_out", "conv_in", "conv_out", "in_proj", "out_proj", "conv1d"),
    }
    assert not [name for name in set(before) - kept if name.startswith("fusion") or name.endswith("bias")]
    with torch.no_grad():
        assert torch.equal(plain(image), image)


def test_training_starts_from_it_where_asked(tmp_path: Path) -> None:
    values = {
        "model": {"width": 8, "encoder_blocks": [1, 0, 0], "decoder_blocks": [1, 0, 0]},
        "iterations": 1,
    }
    expected = XYScanNetConfig(width=8, encoder_blocks=(1, 0, 0), decoder_blocks=(1, 0, 0))
    for init, same in (("lecun-normal", True), ("default", False)):
        config = parse_config({**values, "init": init, "seed": 4, "data": {"photos": ["unused"]}})
        torch.manual_seed(4)
        model = lecun_normal_(XYScanNet(expected))
        found = Trainer(config, tmp_path / init, samples=DrawnPairs()).model
        assert torch.equal(found.patch_embed.weight, model.patch_embed.weight) is same
