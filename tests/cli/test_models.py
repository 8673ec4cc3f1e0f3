"""`xyscan models`: what it lists, describes, converts and refuses."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from xyscan_cli.app import app
from xyscannet import checkpoint
from xyscannet.models import zoo

OFFICIAL = Path(__file__).parent.parent / "data" / "official_dim16_b112.pth"


def xyscan(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_list_names_every_network():
    result = xyscan("models", "list")
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == zoo.names()
    base = next(line for line in lines if line.startswith("xyscannet-b "))
    assert "7.30 M" in base
    assert "58.8" in base


def test_a_list_counts_nothing(monkeypatch):
    monkeypatch.setattr("xyscannet.analysis.complexity.count", None)
    assert len(json.loads(xyscan("models", "list", "--json").stdout)) == len(zoo.names())


def test_list_as_json():
    records = json.loads(xyscan("models", "list", "--json").stdout)
    base = {record["name"]: record for record in records}["xyscannet-b"]
    assert (base["width"], base["parameters"], round(base["gmacs"], 1)) == (48, 7_301_952, 58.8)


def test_info_of_a_name_and_of_a_file():
    record = json.loads(xyscan("models", "info", "xyscannet-plus", "--json").stdout)
    assert (record["name"], record["file"], record["config"]["width"]) == ("xyscannet-plus", None, 144)
    assert "no weights are embedded" in xyscan("models", "info", "xyscannet-plus").stdout
    record = json.loads(xyscan("models", "info", OFFICIAL, "--json").stdout)
    assert record["sha256"] == hashlib.sha256(OFFICIAL.read_bytes()).hexdigest()
    assert record["config"]["gate"] == "mean"
    text = xyscan("models", "info", OFFICIAL).stdout
    assert record["sha256"] in text
    assert "imported_from  official_dim16_b112.pth" in text


def test_convert_then_info(tmp_path):
    target = tmp_path / "out.safetensors"
    record = json.loads(xyscan("models", "convert", OFFICIAL, target, "--json").stdout)
    assert record["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert record["dtype"] == "float32"
    before, after = checkpoint.read(OFFICIAL), checkpoint.read(target)
    assert after.config == before.config
    assert all(torch.equal(after.state[name], tensor) for name, tensor in before.state.items())


def test_convert_to_half(tmp_path):
    target = tmp_path / "out.safetensors"
    result = xyscan("models", "convert", OFFICIAL, target, "--dtype", "fp16")
    assert str(target) in result.stderr
    assert result.stdout == ""
    assert {tensor.dtype for tensor in checkpoint.read(target).state.values()} == {torch.float16}


def test_convert_flips_the_channel_order(tmp_path):
    target = tmp_path / "out.safetensors"
    xyscan("models", "convert", OFFICIAL, target, "--channel-order", "bgr")
    rgb, bgr = checkpoint.read(OFFICIAL), checkpoint.read(target)
    assert torch.equal(bgr.state["patch_embed.weight"], rgb.state["patch_embed.weight"].flip(1))
    assert torch.equal(bgr.state["output.weight"], rgb.state["output.weight"].flip(0))
    assert bgr.metadata["channel_order"] == "converted from bgr to rgb"


def test_convert_keeps_the_card(tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    held = checkpoint.read(OFFICIAL)
    checkpoint.save(first, held.state, held.config, metadata={"seed": "7"})
    xyscan("models", "convert", first, second, "--dtype", "fp16")
    assert checkpoint.read(second).metadata == {"seed": "7"}


def test_convert_never_replaces_silently(tmp_path):
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"mine")
    assert "--exist overwrite" in xyscan("models", "convert", OFFICIAL, target, code=2).stderr
    assert target.read_bytes() == b"mine"
    xyscan("models", "convert", OFFICIAL, target, "--exist", "overwrite")
    assert checkpoint.read(target).config.width == 16
    message = xyscan("models", "convert", target, target, "--exist", "overwrite", code=2).stderr
    assert "is the input itself" in message


def test_wrong_targets(tmp_path):
    assert (
        "must end in .safetensors"
        in xyscan("models", "convert", OFFICIAL, tmp_path / "out.pth", code=2).stderr
    )
    folder = tmp_path / "x.safetensors"
    folder.mkdir()
    assert (
        "is a folder" in xyscan("models", "convert", OFFICIAL, folder, "--exist", "overwrite", code=2).stderr
    )
    missing = tmp_path / "no" / "out.safetensors"
    assert "cannot be written" in xyscan("models", "convert", OFFICIAL, missing, code=1).stderr


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [(None, 3, "no such"), (b"", 2, "zero bytes"), (b"not a checkpoint", 2, "is not a checkpoint")],
)
def test_wrong_sources(tmp_path, content, code, message):
    source = tmp_path / "source.pth"
    if content is not None:
        source.write_bytes(content)
    for arguments in (["info", source], ["convert", source, tmp_path / "out.safetensors"]):
        assert message in xyscan("models", *arguments, code=code).stderr
    assert not (tmp_path / "out.safetensors").exists()


def drawn(path: Path, seed: int, **changes: object) -> Path:
    torch.manual_seed(seed)
    config = replace(
        zoo.info("xyscannet-s").config, width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1)
    )
    config = replace(config, **changes)
    checkpoint.save(path, zoo.build(config), config, metadata={"card": "of one"})
    return path


def test_mean_lies_between_and_says_of_what(tmp_path):
    one, other = drawn(tmp_path / "one.safetensors", 1), drawn(tmp_path / "other.safetensors", 2)
    before = [checkpoint.read(path) for path in (one, other)]
    for shares, share in (([], 0.5), (["--shares", "3,1"], 0.25)):
        target = tmp_path / f"{share}.safetensors"
        said = xyscan("models", "mean", one, other, target, *shares).stderr
        found = checkpoint.read(target)
        assert found.sha256 in said
        assert found.metadata["mean_of"] == f"{before[0].sha256} {before[1].sha256}"
        assert "card" not in found.metadata
        for name, x in found.state.items():
            a, b = (each.state[name] for each in before)
            torch.testing.assert_close(x, a + share * (b - a), rtol=1e-6, atol=1e-7)


def test_mean_takes_the_embedded_weights_and_stores_half(tmp_path):
    target = tmp_path / "same.safetensors"
    record = xyscan(
        "models", "mean", "xyscannet-s", "xyscannet-s", target, "--dtype", "fp16", "--json"
    ).stdout
    assert json.loads(record)["dtype"] == "float16"
    own = checkpoint.read(zoo.info("xyscannet-s").weights)
    assert all(torch.equal(x, own.state[name]) for name, x in checkpoint.read(target).state.items())


def test_mean_refuses_what_has_none(tmp_path):
    one, wider = drawn(tmp_path / "one.safetensors", 1), drawn(tmp_path / "wider.safetensors", 1, width=16)
    target = tmp_path / "out.safetensors"
    for arguments, message in (
        ([one, target], "two checkpoints or more"),
        ([one, wider, target], "of different networks"),
        ([one, one, target, "--shares", "1"], "1 shares are given for 2"),
        ([one, one, target, "--shares", "1,-1"], "not all 0"),
        ([one, one, target, "--shares", "1,nan"], "not all 0"),
        ([one, one, target, "--shares", "half,half"], "must be numbers with commas"),
        ([one, one, one], "is the input itself"),
        ([one, one, tmp_path / "out.pth"], "must end in .safetensors"),
    ):
        assert message in " ".join(xyscan("models", "mean", *arguments, code=2).output.split())
        assert not target.exists()
