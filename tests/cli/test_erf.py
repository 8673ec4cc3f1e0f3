"""`xyscan erf`: the table, the records, the figures, and what it refuses."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from xyscan_cli.app import app
from xyscan_cli.arguments import labels
from xyscannet.analysis import erf
from xyscannet.models import XYScanNetConfig, zoo
from xyscannet.reports.figures import canvas

SMALL = {"width": 8, "encoder_blocks": (0, 0, 0), "decoder_blocks": (1, 0, 0), "d_state": 4}
SIZE = ["--size", 16, "--inputs", 3]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        pixels = np.random.default_rng(len(name)).integers(0, 255, (20, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), pixels)
    return folder


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, ["erf", "--device", "cpu", *[str(argument) for argument in arguments]])
    assert result.exit_code == code, result.output
    return result


def test_table_and_files(tiny_weights, photos, tmp_path):
    record, table, maps = (tmp_path / f"a.{suffix}" for suffix in ("json", "csv", "npz"))
    outputs = ["--json", record, "--csv", table, "--maps", maps]
    result = run(photos, "--models", tiny_weights, "--scanners", *SIZE, *outputs)
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["network", "weights", "part", "inputs"] and len(lines) == 5
    assert all(line.split()[:2] == ["tiny", "tiny.safetensors"] for line in lines[1:])
    records = [json.loads(line) for line in record.read_text().splitlines()]
    parts = ["residual", *(f"decoder_level1.0: {part}" for part in ("intra", "inter", "block"))]
    assert [each["part"] for each in records] == parts
    for each in records:
        assert each["inputs"] == 3 and each["size"] == [16, 16] and 0 < each["reached"] <= 1
        ratios = [area["ratio"] for area in each["areas"]]
        assert [area["share"] for area in each["areas"]] == [0.2, 0.3, 0.5, 0.99] and ratios == sorted(ratios)
    with np.load(maps) as held:
        assert list(held) == [f"tiny/{part}" for part in parts] and held["tiny/residual"].shape == (16, 16)
        assert np.count_nonzero(held["tiny/residual"]) / 256 == records[0]["reached"]
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16 and float(rows[3]["ratio"]) == records[0]["areas"][3]["ratio"]


def test_files_are_written_before_stdout(tiny_weights, photos, tmp_path, ended_at_the_table):
    names = {option: tmp_path / f"a{option}.npz" for option in ("--csv", "--json", "--maps")}
    run(photos, "--models", tiny_weights, *SIZE, *[a for pair in names.items() for a in pair], code=130)
    assert all(path.stat().st_size for path in names.values())


def test_networks_side_by_side_and_their_figures(tiny_weights, photos, tmp_path):
    out, other = tmp_path / "figures", shutil.copy(tiny_weights, tmp_path / "other.safetensors")
    arguments = [photos, "--models", f"{tiny_weights},{other}", "--random", "--scanners", *SIZE]
    result = run(*arguments, "--figures", out, "--json", "-")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert {each["model"] for each in records} == {str(tiny_weights), str(other)}
    assert {each["weights"] for each in records} == {"random"}
    names = [f"{stem}.{suffix}" for stem in ("erf", "scanners") for suffix in ("pdf", "png")]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "captions.txt"])
    captions = " ".join((out / "captions.txt").read_text().split())
    assert "tiny (random weights), other (random weights): the absolute gradient" in captions
    assert captions.count("Made with: xyscan") == 2


def test_variants_of_a_network(photos, monkeypatch):
    small = dataclasses.replace(zoo.info("xyscannet-s"), config=XYScanNetConfig(**SMALL))
    monkeypatch.setattr(zoo, "info", lambda name: small)
    models = ",".join(
        f"xyscannet-s:{variant}" for variant in ("inter-only", "intra-only", "mambair", "bidirectional")
    )
    result = run(photos, "--models", models, "--scanners", *SIZE, "--json", "-")
    parts = {}
    for line in result.stdout.splitlines():
        record = json.loads(line)
        assert record["weights"] == "random"
        parts.setdefault(record["model"].partition(":")[2], []).append(record["part"].partition(": ")[2])
    assert parts == {
        "inter-only": ["", "inter 1", "inter 2", "block"],
        "intra-only": ["", "intra 1", "intra 2", "block"],
        "mambair": ["", "ss2d 1", "ss2d 2", "block"],
        "bidirectional": ["", "intra", "inter", "block"],
    }


def test_files_named_alike_are_told_apart():
    assert labels(["a/x.pth", "a/y.safetensors", "xyscannet-s"]) == {
        "a/x.pth": "x",
        "a/y.safetensors": "y",
        "xyscannet-s": "xyscannet-s",
    }
    assert labels(["a/x.pth", "b/x.pth"]) == {"a/x.pth": "a/x.pth", "b/x.pth": "b/x.pth"}


def test_a_photograph_that_is_too_small_is_told_and_the_others_are_used(tiny_weights, photos):
    cv2.imwrite(str(photos / "c.png"), np.zeros((8, 8, 3), np.uint8))
    result = run(photos, "--models", tiny_weights, *SIZE, code=1)
    assert "c.png" in result.stderr and "fewer than a crop" in result.stderr
    assert result.stdout.splitlines()[1].split()[3] == "2"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at", "patch_embd"], "did you mean 'patch_embed'"),
        (["--scanners", "--block", "decoder_level2.7"], "is no decoder block"),
        (["--block", "decoder_level1.0"], "--block names the block of --scanners"),
        (["--models", "xyscanet-s"], "xyscannet-s"),
        (["--models", "xyscannet-s:iner-only"], "'iner-only' is no variant"),
        (["--csv", "absent/a.csv"], "its folder does not exist"),
        (["--csv", "."], "--csv .: is a folder"),
        (["--figures", __file__], "is a file; name a folder"),
    ],
)
def test_what_is_refused_before_the_work(tiny_weights, photos, arguments, message, monkeypatch):
    monkeypatch.setattr(erf, "gradient", lambda *_: pytest.fail("began"))
    models = [] if "--models" in arguments else ["--models", tiny_weights]
    assert message in run(photos, *models, *SIZE, *arguments, code=2).stderr


def test_figures_without_matplotlib_are_refused_before_the_work(tiny_weights, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(erf, "gradient", lambda *_: pytest.fail("began"))
    monkeypatch.setattr(canvas.importlib.util, "find_spec", lambda name: None)
    arguments = [photos, "--models", tiny_weights, *SIZE, "--figures", tmp_path / "figures"]
    assert "pip install 'xyscannet[figures]'" in run(*arguments, code=3).stderr


def test_the_example_photographs_are_the_default(tiny_weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "no folder examples/ here" in run("--models", tiny_weights, code=2).stderr
