"""`--scales`: what `xyscan deblur` says of it and does with it, and that `xyscan eval` tells runs apart by it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from xyscan_cli.app import app
from xyscannet.data.blur import BlurConfig, render, sample_blur
from xyscannet.reports.results import from_json


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def shaken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair of 192 x 200 pixels in GoPro's layout, shaken along 36 pixels."""
    config = BlurConfig(path_px=(35.0, 36.0), object_share=0.0, sharp_share=0.0)
    scene = data.astronaut()[: 192 + 2 * config.margin, : 200 + 2 * config.margin]
    scene = torch.from_numpy(np.ascontiguousarray(scene)).permute(2, 0, 1)[None] / 255
    pair = render(scene, sample_blur(config, 1, 192, 200, torch.Generator().manual_seed(0)))
    folder = tmp_path_factory.mktemp("shaken")
    for name, image in zip(("blur", "sharp"), pair):
        file = folder / "test" / "scene" / name / "1.png"
        file.parent.mkdir(parents=True)
        Image.fromarray((image[0] * 255).round().byte().permute(1, 2, 0).numpy()).save(file)
    return folder


def test_strong_shake_is_found_and_said(shaken: Path, tmp_path: Path) -> None:
    result = run("deblur", shaken / "test" / "scene" / "blur", tmp_path / "out", "--json", tmp_path / "log")
    assert result.exit_code == 0, result.output
    assert "scales: auto" in result.stderr
    assert "note: strong shake, restored from 1/2 of its size up: " in result.stderr
    assert json.loads((tmp_path / "log").read_text())["scales"]["2"] > 0.5


def test_a_number_is_taken_as_it_is(shaken: Path, tmp_path: Path) -> None:
    blurred, outputs = shaken / "test" / "scene" / "blur" / "1.png", []
    for number in (1, 2, 3):
        log = tmp_path / f"{number}.json"
        result = run("deblur", blurred, tmp_path / f"{number}.png", "--scales", number, "--json", log)
        assert result.exit_code == 0 and "note: strong shake" not in result.stderr, result.output
        assert json.loads(log.read_text())["scales"] == {str(number): 1.0}
        outputs.append((tmp_path / f"{number}.png").read_bytes())
    assert len(set(outputs)) == 3
    assert "scales: 3, from 1/4 of the size up" in result.stderr


@pytest.mark.parametrize("text", ["0", "5", "1/2", "half", ""])
@pytest.mark.parametrize("command", ["deblur", "eval"])
def test_no_such_number(command: str, text: str, shaken: Path, tmp_path: Path) -> None:
    where = [shaken, tmp_path / "out"] if command == "deblur" else ["--root", shaken, "--dataset", "gopro"]
    result = run(command, *where, "--scales", text)
    assert result.exit_code == 2 and not (tmp_path / "out").exists()
    assert (
        f"--scales must be auto or a number from 1 to 4, not {text if text.isdecimal() else repr(text)}"
        in result.stderr
    )


def test_eval_measures_the_full_size_unless_asked_and_keeps_runs_apart(shaken: Path, tmp_path: Path) -> None:
    def gain(*more: object) -> float:
        where = ["--root", shaken, "--dataset", "gopro", "--out", tmp_path / "journal", "--metrics", "psnr"]
        result = run("eval", "--weights", "xyscannet-s", *where, *more, "--json", "-")
        assert result.exit_code == 0, result.output
        return from_json(result.stdout).images[0].values["psnr"]

    full = gain()
    with pytest.raises(AssertionError, match="--fresh"):  # the journal is another run's
        gain("--scales", "auto")
    assert gain("--scales", "auto", "--fresh") > full + 0.5
