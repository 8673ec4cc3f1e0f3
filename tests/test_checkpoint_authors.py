"""The authors' checkpoints: what is read off their tensors, what they compute, and what they are wrapped in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from xyscannet import checkpoint
from xyscannet.authors import rename
from xyscannet.errors import ConfigError
from xyscannet.models import XYScanNetConfig

DATA = Path(__file__).parent / "data"
OFFICIAL = DATA / "official_dim16_b112.pth"
TINY = XYScanNetConfig(width=4, encoder_blocks=(1, 0, 1), decoder_blocks=(1, 0, 1), d_state=2)


@pytest.fixture
def official() -> dict[str, torch.Tensor]:
    return torch.load(OFFICIAL, weights_only=True)


def test_official_config_is_read_off_the_tensors():
    held = checkpoint.read(OFFICIAL)
    assert held.config == XYScanNetConfig(
        width=16, encoder_blocks=(1, 1, 2), decoder_blocks=(1, 1, 2), gate="mean"
    )
    assert held.metadata == {"imported_from": OFFICIAL.name}


def test_renaming_is_one_to_one(official):
    names = [name.removeprefix("module.") for name in official]
    assert len({rename(name) for name in names}) == len(names)
    assert {rename(rename(name)) for name in names} == {rename(name) for name in names}


@pytest.mark.parametrize("size", ["64x64", "48x80"])
@pytest.mark.parametrize("converted", [False, True])
def test_official_outputs(tmp_path, size, converted):
    path = OFFICIAL
    if converted:
        held = checkpoint.read(OFFICIAL)
        path = tmp_path / "converted.safetensors"
        checkpoint.save(path, held.state, held.config, metadata=held.metadata)
    model = checkpoint.load_model(path)
    with np.load(DATA / "official_dim16_b112.npz") as held:
        image, expected, residual = (held[f"{kind}_{size}"] for kind in ("input", "output", "residual"))
    with torch.inference_mode():
        output = model(torch.from_numpy(image)).numpy()
    assert np.abs(output - expected).max() <= 1e-4 * np.abs(residual).max()


def test_channel_order(tmp_path):
    rgb = checkpoint.load_model(OFFICIAL)
    bgr = checkpoint.load_model(OFFICIAL, channel_order="bgr")
    image = torch.rand(1, 3, 16, 20)
    with torch.inference_mode():
        assert torch.allclose(bgr(image), rgb(image.flip(1)).flip(1), atol=1e-4)
        assert not torch.allclose(bgr(image), rgb(image), atol=1e-2)
    with pytest.raises(ConfigError, match="channel order"):
        checkpoint.read(OFFICIAL, channel_order="grb")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"params": state},
        lambda state: {"params": {k: v * 0 for k, v in state.items()}, "params_ema": state},
        lambda state: {"model": {"state_dict": state}, "optimizer": {"lr": 0.1}},
        lambda state: {"weights": state, "iteration": 5},
        lambda state: {"ema": {}, "state_dict": state},
        lambda state: {"ema": {"decay": torch.tensor(0.99)}, "state_dict": state},
        lambda state: {"model": {"width": 16}, "weights": state},
        lambda state: {f"module.{k}": v for k, v in state.items()},
        lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
        lambda state: {k.removeprefix("module."): v for k, v in state.items()},
    ],
)
def test_wrappers_and_prefixes(tmp_path, official, wrap):
    path = tmp_path / "wrapped.pth"
    torch.save(wrap(official), path)
    held = checkpoint.read(path)
    assert held.config.width == 16
    assert torch.equal(held.state["output.weight"], official["module.output.weight"])


def test_legacy_serialisation(tmp_path, official):
    path = tmp_path / "legacy.pth"
    torch.save(official, path, _use_new_zipfile_serialization=False)
    assert checkpoint.read(path).config.width == 16


def test_other_block_counts_are_seen(tmp_path, official):
    grown = dict(official)
    for name, tensor in official.items():
        if name.startswith("module.encoder_level1.0."):
            grown[name.replace("level1.0.", "level1.1.")] = tensor
    path = tmp_path / "grown.pth"
    torch.save(grown, path)
    assert checkpoint.read(path).config.encoder_blocks == (2, 1, 2)


def test_incomplete_official_state(tmp_path, official):
    official.pop("module.decoder_level3.1.inter.mamba.D")
    official["module.decoder_level1.0.intra.dwconv.weight"] = torch.zeros(32, 1, 5, 5)
    path = tmp_path / "part.pth"
    torch.save(official, path)
    with pytest.raises(ConfigError) as caught:
        checkpoint.read(path)
    assert "1 missing: decoder_level3.1.vssm2.scanner.mamba.D" in str(caught.value)
    assert "decoder_level1.0.vssm1.dwconv.weight 32x1x5x5 instead of 32x1x3x3" in str(caught.value)


# Wrong files
