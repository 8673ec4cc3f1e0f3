"""A smaller network grown to a wider and deeper one that computes the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.conftest import DrawnPairs
from xyscannet import checkpoint
from xyscannet.errors import ConfigError
from xyscannet.models import XYScanNet, XYScanNetConfig, zoo
from xyscannet.models.grow import grow
from xyscannet.training.loop import Trainer
from xyscannet.training.recipes import parse_config

SMALL = {"width": 4, "encoder_blocks": (1, 0, 1), "decoder_blocks": (1, 1, 1), "d_state": 4}


def trained(**options: object) -> XYScanNet:
    """A network whose every parameter has moved away from its start."""
    torch.manual_seed(0)
    network = XYScanNet(XYScanNetConfig(**{**SMALL, **options}))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return network


def image() -> torch.Tensor:
    return torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "options",
    [
        {"width": 8},
        {"width": 12, "encoder_blocks": (2, 1, 1), "decoder_blocks": (2, 1, 3)},
        {"width": 36, "decoder_blocks": (1, 1, 1)},  # delta's rank grows
        {"width": 4, "decoder_blocks": (1, 2, 1)},
        {"width": 8, "fusion": "aff"},
        {"width": 8, "fusion": "none", "scanners": ("inter", "intra")},
        {"width": 8, "gate": "mean", "bidirectional": True, "ffn_expansion": 2.0},
    ],
    ids=str,
)
def test_it_computes_the_same(options: dict) -> None:
    config = XYScanNetConfig(**{**SMALL, **options})
    same = {name: value for name, value in options.items() if name != "width" and "blocks" not in name}
    small = trained(**same)
    large = grow(small, config)
    assert large.config == config and large.training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in large.parameters())
    with torch.no_grad():
        added, expected = large(image()) - image(), small(image()) - image()
    assert expected.std() > 0.01
    assert (added - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_the_named_sizes_grow_into_one_another() -> None:
    for small, large in ((24, 48), (24, 72), (48, 144), (72, 144)):
        with torch.device("meta"):
            network = XYScanNet(
                XYScanNetConfig(width=small, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))
            )
        state = {name: torch.randn(x.shape) for name, x in network.state_dict().items()}
        network.load_state_dict(state, assign=True)
        grown = grow(
            network, XYScanNetConfig(width=large, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1))
        )
        assert all(x.isfinite().all() for x in grown.state_dict().values())


def test_the_embedded_weights_grow_to_the_papers_network() -> None:
    small = checkpoint.load_model("xyscannet-s")
    large = grow(small, zoo.info("xyscannet-b").config)
    with torch.no_grad():
        added, expected = large(image()) - image(), small(image()) - image()
    assert (added - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_copies_part_in_training() -> None:
    large = grow(trained(), XYScanNetConfig(**{**SMALL, "width": 8, "decoder_blocks": (1, 1, 2)}))
    large(image()).square().mean().backward()
    inner = large.decoder_level1[0].vssm1
    for weight in (inner.proj_in.weight, inner.scanner.mamba.in_proj.weight, large.patch_embed.weight):
        one, other = weight.grad[0::2], weight.grad[1::2]
        assert (one - other).abs().max() > 0.02 * one.abs().max()
    new = large.decoder_level3[1]
    assert not new.vssm1.proj_out.weight.any() and new.vssm1.proj_out.weight.grad.any()


def test_the_outcome_is_drawn_from_the_seed() -> None:
    config = XYScanNetConfig(**{**SMALL, "width": 8})
    small, states = trained(), []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        states.append(torch.cat([x.flatten() for x in grow(small, config).parameters()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 6}, "width 4 grows to its multiples, not to 6"),
        ({"width": 2}, "not to 2"),
        ({"decoder_blocks": (1, 0, 1)}, r"decoder_blocks grow from \[1, 1, 1\]"),
        ({"d_state": 8}, "d_state stays 4"),
        ({"gate": "mean"}, "gate stays 'element' where a network grows, not 'mean'"),
        ({"scanners": ("ss2d", "ss2d")}, "'ss2d' does not grow"),
    ],
    ids=str,
)
def test_what_does_not_grow(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        grow(trained(), XYScanNetConfig(**{**SMALL, **options}))


def test_hidden_widths_that_are_no_multiples_do_not_grow() -> None:
    config = XYScanNetConfig(**{**SMALL, "width": 8, "ffn_expansion": 2.66})
    with pytest.raises(
        ConfigError, match=r"the hidden widths \[21, 43, 85\] are no multiples of \[11, 21, 43\]"
    ):
        grow(trained(ffn_expansion=2.66), config)


def test_training_starts_from_a_smaller_network(tmp_path: Path) -> None:
    small = trained()
    checkpoint.save(tmp_path / "small.safetensors", small, small.config)
    larger = {**SMALL, "width": 8}
    values = {
        "model": larger,
        "iterations": 1,
        "data": {"photos": ["unused"]},
        "start_from": str(tmp_path / "small.safetensors"),
    }
    told: list[dict] = []
    run = {"samples": DrawnPairs(), "on_event": told.append}
    trainer = Trainer(parse_config({**values, "seed": 3, "tensorboard": False}), tmp_path / "run", **run)
    found = trainer.model
    torch.manual_seed(3)
    expected = grow(checkpoint.load_model(values["start_from"]), XYScanNetConfig(**larger))
    for name, x in expected.state_dict().items():
        assert torch.equal(x, found.state_dict()[name]), name
    trainer.run()
    assert told[0]["weights"] == f"weights of {values['start_from']}, grown"
    again = parse_config({**values, "seed": 3, "tensorboard": False})
    Trainer(again, tmp_path / "run", resume="auto", samples=DrawnPairs(), on_event=told.append).run()
    assert [each["weights"] for each in told if each["event"] == "start"][1:] == [None]
    with pytest.raises(
        ConfigError, match="start_from: .*small.safetensors .*width 4 grows to its multiples, not to 6"
    ):
        parsed = parse_config({**values, "model": {**SMALL, "width": 6}})
        Trainer(parsed, tmp_path / "other", samples=DrawnPairs())
