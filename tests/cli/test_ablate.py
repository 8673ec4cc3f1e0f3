"""`xyscan ablate`: the whole table of a tiny network, an interruption, a failed cell, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.data.miniature import picture
from xyscan_cli.app import app
from xyscannet.analysis.ablation import costs
from xyscannet.evaluation import engine
from xyscannet.files import held
from xyscannet.training.loop import Trainer

pytest.importorskip("skimage", reason="PSNR needs scikit-image")
SMALL = ["--set", "model={width: 8, encoder_blocks: [1, 0, 0], decoder_blocks: [1, 0, 0], d_state: 4}"]
SMALL += ["--set", "data.patch=16", "--set", "data.batch=2", "--set", "loss.contrastive=0"]
SMALL += ["--set", "validation.pairs=null", "--set", "tensorboard=false", "--device", "cpu", "--repeats", "1"]


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, ["ablate", *[str(argument) for argument in arguments]])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """GoPro and HIDE, a pair of each split, found through XYSCAN_DATA."""
    monkeypatch.chdir(tmp_path)
    for number, place in enumerate(("GoPro/train/a", "GoPro/test/b", "HIDE/test")):
        for role in ("blur", "sharp"):
            picture(
                tmp_path / f"data/{place}/{role}/1.png", size=(24, 20), seed=2 * number + (role == "blur")
            )
    monkeypatch.setenv("XYSCAN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(costs, "peak_of", lambda case, device, tell: 1_000_000)
    return tmp_path


def rows(stdout: str) -> list[str]:
    return [line.split("  ")[0] for line in stdout.splitlines()]


def test_a_second_run_on_a_cell_is_refused(data):
    home = Path("runs/ablation/inter-only/seed-0")
    with held(home):
        result = run("slices", "--iterations", 2, "--seeds", 1, *SMALL, code=2)
    assert f"another run is writing to {home}" in result.stderr.replace("\n", " ")
    assert not home.exists()


def test_the_whole_table_and_it_again_from_the_folder(data, request):
    files = ["--csv", "t.csv", "--markdown", "t.md", "--latex", "t.tex", "--json", "t.json"]
    result = run("slices", "--iterations", 2, "--seeds", 2, *SMALL, *files)
    table = ["inter only", "paper: inter only", "intra only", "paper: intra only", "hybrid", "paper: hybrid"]
    assert rows(result.stdout) == ["method", *table]
    assert result.stdout.count(" ± ") == 6 and "32.18" in result.stdout
    assert "cell 6 of 6" in result.stderr and "time of a training step" in result.stderr
    assert "Not trained as in the paper: model.width 8 (48)" in result.stderr
    lines = list(csv.DictReader(Path("t.csv").read_text().splitlines()))
    assert len(lines) == 6 and all(float(line["gopro psnr"]) > 0 for line in lines)
    record = json.loads(Path("t.json").read_text())
    assert record["command"].startswith("xyscan ablate slices --iterations 2 --seeds 2 ")
    assert record["summary"]["xyscannet"]["hide psnr"]["seeds"] == 2
    assert "**hybrid**" in Path("t.md").read_text() and r"\toprule" in Path("t.tex").read_text()
    home = Path("runs/ablation/xyscannet/seed-1")
    held = json.loads((home / "slices.json").read_text())
    assert held["versions"]["torch"] and held["command"] and held["settings"]["training"]["iterations"] == 2

    again = run("slices", "--iterations", 2, "--seeds", 2, *SMALL)
    assert again.stdout == result.stdout and "6 made before" in again.stderr and "step 1" not in again.stderr
    rebuilt = run("slices", "--from", "runs/ablation", "--json", "-")
    assert json.loads(rebuilt.stdout)["summary"] == record["summary"]
    assert run("slices", "--from", "runs/ablation").stdout == result.stdout
    fewer = run("slices", "--from", "runs/ablation", "--variants", "intra-only")
    assert rows(fewer.stdout) == ["method", *table[2:4]]

    told = run("slices", "--iterations", 3, "--seeds", 2, *SMALL, code=2).stderr
    assert "iterations: 2 there, 3 now" in " ".join(told.split())
    shared = run("scan", "--iterations", 2, "--seeds", 1, "--dry-run", *SMALL)
    assert "xyscannet" in shared.stderr and shared.stdout == ""

    request.getfixturevalue("ended_at_the_table")  # files come before stdout
    run("slices", "--from", "runs/ablation", "--csv", "again.csv", code=130)
    assert Path("again.csv").read_text() == Path("t.csv").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on(number, data, monkeypatch):
    step, seen = Trainer.train_step, []

    def interrupted(self, batch):
        seen.append(self.step)
        if len(seen) == 3:
            os.kill(os.getpid(), number)
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    arguments = ["slices", "--iterations", 4, "--seeds", 1, "--variants", "xyscannet", *SMALL]
    result = run(*arguments, code=130)
    assert seen == [0, 1, 2] and "the same command goes on from there" in result.stderr
    result = run(*arguments)
    assert seen == [0, 1, 2, 3] and "from step 3" in result.stderr
    assert rows(result.stdout) == ["method", "hybrid", "paper: hybrid"] and "±" not in result.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_interrupted_while_it_measures_goes_on(number, code, data, monkeypatch):
    measure, seen = engine.measure, []

    def interrupted(sample, *others):
        seen.append(sample.name)
        if len(seen) == 1:
            os.kill(os.getpid(), number)
        return measure(sample, *others)

    monkeypatch.setattr(engine, "measure", interrupted)
    arguments = ["slices", "--iterations", 1, "--seeds", 1, "--variants", "xyscannet", *SMALL]
    run(*arguments, code=code)
    run(*arguments)
    assert len(seen) == 2  # an image of each set


def test_failed_cells_are_listed(data, monkeypatch):
    train = Trainer.run

    def fail(self):
        if self.network_config.scanners == ("inter", "inter"):
            raise RuntimeError("no luck")
        return train(self)

    monkeypatch.setattr(Trainer, "run", fail)
    arguments = ["slices", "--iterations", 1, "--seeds", 1, "--variants", "xyscannet,inter-only", *SMALL]
    result = run(*arguments, code=1)
    assert "inter-only, seed 0: RuntimeError: no luck" in result.stderr and "0 of 1 seeds" in result.stderr
    assert rows(result.stdout) == ["method", "inter only*", "paper: inter only", "hybrid", "paper: hybrid"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["slice"], 2, "vssm"),
        (["slices", "--variants", "aff"], 2, "inter-only, intra-only, xyscannet"),
        (["slices", "--eval", "gopro"], 2, "NAME=FOLDER"),
        (["slices", "--eval", "hide=data/GoPro"], 3, "HIDE"),
        (["slices", "--csv", "no/such/file"], 2, "does not exist"),
        (["slices", "--set", "optimiser.lrr=1"], 2, "did you mean 'optimiser.lr'"),
        (["slices", "--size", "12"], 2, "720x1280"),
        (["slices", "--perceptual-weights", "absent.pth", "--seeds", "1"], 3, "absent.pth does not exist"),
        (["slices", "--from", "nowhere"], 3, "nowhere"),
    ],
)
def test_wrong_usage_is_one_message(data, arguments, code, message):
    result = run(*arguments, code=code)
    assert message in " ".join(result.stderr.split()) and "Traceback" not in result.stderr
    assert not Path("runs").exists()


def test_several_processes_are_refused(data, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process" in run("slices", *SMALL, code=2).stderr
