"""`xyscan models card`: the table of what weights do."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from xyscan_cli.app import app
from xyscan_cli.commands import _models_card
from xyscannet import images
from xyscannet.analysis import card

pytest.importorskip("matplotlib")
data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    photo = np.ascontiguousarray(data.coffee()[50:230, 200:380])
    images.write(images.Photo(photo), folder / "coffee.png")
    return folder


def test_card_measures_draws_and_writes(photos: Path, tmp_path: Path) -> None:
    arguments = ["models", "card", photos, "--crop", 96, "--window", 64, "--metrics", "psnr"]
    files = {name: tmp_path / f"card.{name}" for name in ("md", "json", "png")}
    arguments += ["--markdown", files["md"], "--json", files["json"], "--figure", files["png"]]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in files["json"].read_text().splitlines()]
    methods = [
        "blurred",
        "unsharp mask",
        "Wiener",
        "Richardson-Lucy",
        "xyscannet-s",
        "xyscannet-s, scales as needed",
        "xyscannet-s, tiles of 64",
    ]
    assert [record["method"] for record in records if record["strength"] == "strong"] == methods
    by_name = {(record["strength"], record["method"]): record["values"]["psnr"] for record in records}
    assert by_name["small", "xyscannet-s"] != by_name["small", "xyscannet-s, tiles of 64"]
    assert by_name["sharp", "xyscannet-s"] > 38
    table = files["md"].read_text()
    assert f"| small | blurred | - | 1 | {by_name['small', 'blurred']:.2f} | +0.00 dB |" in table
    assert "`xyscan models card " in table
    assert cv2.imread(str(files["png"])).shape[1] > 1000


def test_a_name_does_not_break_the_table() -> None:
    lines = _models_card._markdown(["shake", "method"], [["small", "a|b.safetensors"]], "run").splitlines()
    assert lines[:3] == ["| shake | method |", "| --- | --- |", r"| small | a\|b.safetensors |"]


def test_files_are_written_before_stdout(
    photos: Path, tmp_path: Path, monkeypatch, ended_at_the_table
) -> None:
    rows = [card.Row("small", "blurred", "", 1, {"psnr": 20.0}, 0.0)]
    monkeypatch.setattr(card, "measure", lambda *_, **__: rows)
    files = {option: tmp_path / f"card{option}" for option in ("--markdown", "--json")}
    arguments = ["models", "card", photos, "--metrics", "psnr", *(a for pair in files.items() for a in pair)]
    assert CliRunner().invoke(app, [str(argument) for argument in arguments]).exit_code == 130
    assert all("blurred" in path.read_text() for path in files.values())


@pytest.mark.parametrize(
    ("extra", "code", "message"),
    [
        (["--metrics", "ssim"], 2, "psnr must be among them"),
        (["--crop", "4000", "--metrics", "psnr"], 2, "no photograph"),
        (["--figure", "card.gif"], 2, "card.gif"),
        (["--markdown", "no/where.md"], 2, "its folder does not exist"),
        (["--json", "."], 2, "--json .: is a folder"),
        (["--metrics", "psnr,ssin"], 2, "did you mean 'ssim'"),
    ],
)
def test_wrong_usage_is_one_message(
    photos: Path, extra: list[str], code: int, message: str, monkeypatch
) -> None:
    monkeypatch.setattr(card, "render", lambda *_, **__: pytest.fail("began"))
    result = CliRunner().invoke(app, ["models", "card", str(photos), *extra])
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output
