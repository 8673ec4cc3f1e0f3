from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from xyscan_cli import console
from xyscan_cli.app import app
from xyscan_cli.commands import _train_report
from xyscan_cli.progress import Progress
from xyscannet import checkpoint
from xyscannet.training.rates import Rates
from xyscannet.training.recipes import load_config

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--set", "model={width: 8, encoder_blocks: [1, 0, 0], decoder_blocks: [1, 0, 0], d_state: 4}"]
TINY += ["--set", "data.patch=32", "--set", "data.batch=2", "--set", "data.blur.path_px=[2, 5]"]
TINY += [
    "--set",
    "data.blur.object_share=0",
    "--set",
    "validation.crop=64",
    "--set",
    "validation.strengths=[small]",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    noise = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    for index, image in enumerate(noise):
        Image.fromarray(image).resize((192, 192), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def start(*arguments: object) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "xyscan_cli", "train", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def train(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in this process."""
    done = CliRunner().invoke(app, ["train", *map(str, arguments)], prog_name="xyscan")
    return done.exit_code, done.stdout, done.stderr


def data(photos: Path) -> list[str]:
    return [*TINY, "--set", f"data.photos=[{photos}]", "--set", f"data.validation={photos}"]


def test_smoke_recipe_trains_validates_and_writes_weights(photos: Path, tmp_path: Path) -> None:
    short = ["--set", "iterations=4", "--set", "validation.every=2", "--set", "log_every=1"]
    code, out, err = train("smoke", *data(photos), *short, "--output", tmp_path / "run", "--device", "cpu")
    assert code == 0, err
    assert out == ""
    assert "validation:" in err and "done after 4 steps" in err
    assert checkpoint.read(tmp_path / "run" / "best.safetensors").metadata["recipe"] == "smoke"
    (run,) = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["command"].startswith("xyscan train smoke --set")
    assert run["data"]["photos"] == 3


def test_interrupt_saves_the_state_and_resume_finishes(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    endless = [
        *data(photos),
        "--set",
        "iterations=100000",
        "--set",
        "log_every=1",
        "--set",
        "save_every=100000",
    ]
    process = start("smoke", *endless, "--output", folder, "--device", "cpu")
    for line in process.stderr:
        if line.startswith("step 3 "):
            break
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130, rest
    assert time.monotonic() - begin < 20
    assert "--resume auto goes on from there" in rest and "Traceback" not in rest
    reached = max(json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines())
    assert not list(folder.glob(".*"))
    short = [*data(photos), "--set", f"iterations={reached + 2}", "--set", "log_every=1"]
    code, _, err = train("smoke", *short, "--output", folder, "--device", "cpu", "--resume", "auto")
    assert code == 0, err
    assert f"from step {reached}" in err and f"done after {reached + 2} steps" in err


def train_here(*arguments: str) -> int:
    """The command in this process; its output goes to pytest's capture."""
    with pytest.raises(SystemExit) as ended:
        app(["train", *arguments], prog_name="xyscan")
    return ended.value.code


def test_list_names_every_recipe(capfd: pytest.CaptureFixture[str]) -> None:
    assert train_here("--list") == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(
        ["ablation", "default-b", "default-s", "gopro", "realblur-j", "realblur-r", "smoke"]
    )
    assert all(len(line.split()) > 5 for line in lines)


@pytest.mark.parametrize(
    ("recipe", "stages", "iterations", "rate"),
    [
        ("gopro", ((252, 16), (320, 8)), 788_000, 2.2e-4),
        ("realblur-j", ((320, 8),), 2000 * 3758 // 8, 1e-4),
        ("realblur-r", ((320, 8),), 2000 * 3758 // 8, 1e-4),
        ("ablation", ((128, 16),), 3000 * 2103 // 16, 2.2e-4),
    ],
)
def test_recipes_have_the_papers_numbers(recipe: str, stages: tuple, iterations: int, rate: float) -> None:
    config = load_config(recipe)
    assert config.shapes == stages and config.iterations == pytest.approx(iterations, abs=1)
    assert (config.optimiser.kind, config.optimiser.lr, config.optimiser.min_lr) == ("adam", rate, 1e-7)
    loss = config.loss
    assert (loss.charbonnier, loss.eps, loss.edge, loss.contrastive) == (1, 1e-3, 0.05, 0.0005)
    if recipe == "gopro":
        assert config.stage_at(393_999 / 788_000) == 0 and config.stage_at(394_000 / 788_000) == 1


def test_a_process_that_hears_of_nothing_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []

    class Bar(Progress):
        def __enter__(self) -> Progress:
            bars.append(self)
            return super().__enter__()

    monkeypatch.setattr(_train_report, "Progress", Bar)
    monkeypatch.setattr(console, "terminal", lambda: Console(file=io.StringIO(), force_terminal=True))
    with _train_report.shown(load_config("smoke")):
        pass
    assert not bars
    with _train_report.shown(load_config("smoke")) as show:
        for step in (10, 20, 30):
            show({"event": "step", "step": step, "progress": step / 40, "loss": 0.1})
    (bar,) = bars
    assert (bar.done, bar.total) == (20, 30)


def test_dry_run_measures_and_writes_nothing(photos: Path, tmp_path: Path) -> None:
    code, out, err = train(
        "smoke", *data(photos), "--output", tmp_path / "run", "--device", "cpu", "--dry-run"
    )
    assert code == 0, err
    for word in ("M parameters", "loader alone:", "device alone:", "crops/s", "40 steps: about", "3 images"):
        assert word in out
    assert not (tmp_path / "run").exists()


def test_dry_run_tells_what_is_left_of_a_time_budget() -> None:
    trainer = SimpleNamespace(
        config=load_config("smoke", ["iterations=null", "time_budget_minutes=10"]),
        model=nn.Linear(1, 1),
        update=SimpleNamespace(precision="fp32"),
        processes=SimpleNamespace(count=1),
        device="cpu",
        samples=SimpleNamespace(manifest=dict),
        validation=None,
        elapsed=360.0,
    )
    assert _train_report.plan(trainer, Rates(64, 4, 8.0, 8.0, 0.5, None))[-1] == "time budget: 4:00 left"


def test_absent_perceptual_weights_are_one_message(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "smoke",
        *data(photos),
        "--set",
        "loss.contrastive=0.0005",
        "--output",
        str(tmp_path / "run"),
    ]
    absent = tmp_path / "absent.pth"
    assert train_here(*arguments, "--device", "cpu", "--perceptual-weights", str(absent)) == 3
    err = capfd.readouterr().err
    assert "absent.pth does not exist" in err.replace("\n", " ") and "Traceback" not in err


def test_print_config_is_the_resolved_configuration(capfd: pytest.CaptureFixture[str]) -> None:
    assert train_here("default-s", "--set", "optimiser.lr=1e-4", "--print-config") == 0
    assert yaml.safe_load(capfd.readouterr().out)["optimiser"]["lr"] == 1e-4


@pytest.mark.parametrize("arguments", [[], ["--deterministic"]])
def test_deterministic_is_a_value_of_the_configuration(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert train_here("smoke", *arguments, "--print-config") == 0
    assert yaml.safe_load(capfd.readouterr().out)["deterministic"] is bool(arguments)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["smok"], 2, "did you mean 'smoke'"),
        (["smoke", "--set", "optimiser.lrr=1"], 2, "did you mean 'optimiser.lr'"),
        (["smoke", "--resume", "nothing-here"], 2, "nothing to resume"),
        (["smoke", "--output", "unused"], 2, "data.photos"),
        (["smoke", "--device", "tpu9"], 2, "no such device: 'tpu9'"),
        (["smoke", "--device", "cuda:99"], 3, "device cuda:99 is not there"),
    ],
)
def test_wrong_usage_is_one_message(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("xyscan_cli.console._State.rich", None)
    found = train_here(*arguments)
    out, err = capfd.readouterr()
    assert found == code, err
    assert message in err and "Traceback" not in err and out == ""
    assert not list(tmp_path.iterdir())
