"""A network small enough for tests of the command line, and `xyscan deblur` with it in a folder of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from xyscan_cli import tables
from xyscan_cli.app import app


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


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ended_at_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands end, with code 130, when they would print their table."""

    def end(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tables, "show", end)


@pytest.fixture
def deblur(here: Path, tiny_weights: Path):
    """`xyscan deblur` of the tiny network: arguments -> click's result."""

    def run(*arguments: str):
        return CliRunner().invoke(app, ["deblur", "--weights", str(tiny_weights), *arguments])

    return run
