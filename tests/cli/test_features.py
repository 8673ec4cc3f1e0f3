"""`xyscan features`: the table, the records, the maps, the figures, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import json

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from xyscan_cli.app import app
from xyscannet import checkpoint
from xyscannet.models import XYScanNet


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (18, 24, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), pixels)
    return tmp_path / "photo.png"


@pytest.fixture
def both_ways(tiny_weights, tmp_path):
    """The tiny network with its scans in both directions: the same parameters."""
    one_way = checkpoint.load_model(tiny_weights)
    config = dataclasses.replace(one_way.config, bidirectional=True)
    model = XYScanNet(config)
    model.load_state_dict(one_way.state_dict())
    checkpoint.save(tmp_path / "both.safetensors", model, config)
    return tmp_path / "both.safetensors"


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, ["features", "--device", "cpu", *[str(a) for a in arguments]])
    assert result.exit_code == code, result.output
    return result


def test_files_are_written_before_stdout(tiny_weights, photo, tmp_path, ended_at_the_table):
    names = {option: tmp_path / f"a{option}.npz" for option in ("--csv", "--json", "--maps")}
    run(photo, "--models", tiny_weights, *[a for pair in names.items() for a in pair], code=130)
    assert all(path.stat().st_size for path in names.values())


def test_records_maps_and_table(tiny_weights, photo, tmp_path):
    record, table, maps = tmp_path / "a.json", tmp_path / "a.csv", tmp_path / "a.npz"
    arguments = [photo, "--models", tiny_weights, "--json", record, "--csv", table, "--maps", maps]
    lines = run(*arguments).stdout.splitlines()
    records = [json.loads(line) for line in record.read_text().splitlines()]
    modules = [f"decoder_level{level}.0.vssm{place}" for level in (3, 2, 1) for place in (1, 2)]
    assert [each["module"] for each in records] == [name for name in modules for _ in range(2)]
    assert [each["direction"] for each in records[:4]] == ["x", "y", "y", "x"]
    assert len(lines) == 13 and lines[1].split()[2:5] == [modules[0], "intra", "→"]
    with table.open() as file:
        assert [float(row["delta"]) for row in csv.DictReader(file)] == [each["delta"] for each in records]
    with np.load(maps) as held:
        assert held["tiny/residual"].shape == (18, 24, 3)
        delta, decay = (
            held["tiny/decoder_level1.0.vssm1/x/delta"],
            held["tiny/decoder_level1.0.vssm1/x/decay"],
        )
        assert delta.shape == (20, 24) and decay.shape == (16, 20, 24)
        assert held["tiny/decoder_level1.0.vssm2/y/delta"].shape == (20,)
    of_one = run(photo, "--models", tiny_weights, "--state", 16, "--json", "-").stdout.splitlines()
    assert json.loads(of_one[8])["decay"] == pytest.approx(decay[15].mean(), abs=1e-6)
    assert json.loads(of_one[8])["decay"] < records[8]["decay"] == pytest.approx(decay.mean(), abs=1e-6)


def test_one_way_beside_both_ways(tiny_weights, both_ways, photo, tmp_path):
    out = tmp_path / "figures"
    models = ["--models", f"{tiny_weights},{both_ways}", "--blocks", "decoder_level1.0", "--size", 16]
    result = run(photo, *models, "--figures", out, "--json", "-")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["likeness"] is None for each in records] == [True] * 6 + [False] * 2 + [True, False] * 2
    assert all(each["size"] == [16, 16] for each in records)
    stems = ("residual-features", "states-1", "states-2")
    names = [f"{stem}.{suffix}" for stem in stems for suffix in ("pdf", "png")]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "captions.txt"])
    captions = " ".join((out / "captions.txt").read_text().split())
    assert captions.count("Made with: xyscan") == 3 and "tiny (weights tiny.safetensors), both (" in captions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--blocks", "decoder_level1.5"], "is no decoder block"),
        (["--state", 17], "has 16 states a channel"),
        (["--maps", "a.npy"], "are written as .npz"),
        (["--json", "absent/a.json"], "its folder does not exist"),
        (["--csv", "."], "--csv .: is a folder"),
        (["--figures", __file__], "is a file; name a folder"),
    ],
)
def test_what_is_refused(tiny_weights, photo, arguments, message):
    assert message in run(photo, "--models", tiny_weights, *arguments, code=2).stderr


def test_a_photograph_smaller_than_the_crop(tiny_weights, photo):
    assert "fewer than a crop" in run(photo, "--models", tiny_weights, "--size", 64, code=1).stderr
