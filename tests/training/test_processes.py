"""Processes that train together, and processes that are killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from tests.data.miniature import photographs
from tests.subprocesses import environment
from xyscan_cli.app import app
from xyscannet.training.loop import Trainer
from xyscannet.training.processes import Processes
from xyscannet.training.state import find_state

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "--num_machines", "1"]
ACCELERATE += ["--mixed_precision", "no", "--dynamo_backend", "no"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the processes that are started have: sums over threads are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """A tiny run on a mixture of photographs and pairs."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for role in ("photos", "blur", "sharp"):
        (folder / role).mkdir()
        for number in range(3):
            image = Image.fromarray(random.integers(0, 256, (20, 20, 3), dtype=np.uint8))
            image.resize((128, 128), Image.Resampling.BICUBIC).save(folder / role / f"{number}.png")
    return {
        "name": "tiny",
        "model": {"width": 8, "encoder_blocks": [1, 0, 0], "decoder_blocks": [1, 0, 0], "d_state": 4},
        "data": {
            "photos": [str(folder / "photos")],
            "pairs": [{"blur": str(folder / "blur"), "sharp": str(folder / "sharp")}],
            "patch": 32,
            "batch": 4,
            "blur": {"path_px": [2, 5], "object_share": 0},
        },
        # eps: so large that rounding does not decide the sign of a step
        "optimiser": {"lr": 1e-3, "eps": 1e-3, "warmup": 0},
        "iterations": 4,
        "log_every": 1,
        "save_every": 2,
        "tensorboard": False,
        "validation": {"every": 4, "pairs": {"blur": str(folder / "blur"), "sharp": str(folder / "sharp")}},
    }


def command(settings: dict, folder: Path, *launcher: str, **changes: object) -> list[str]:
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**settings, **changes}))
    train = ["-m", "xyscan_cli", "train", str(path), "--output", str(folder), "--device", "cpu"]
    return [sys.executable, *launcher, *train]


def started(arguments: list[str]) -> subprocess.Popen:
    variables = environment(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1")
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables
    )


def here(arguments: list[str], code: int = 0) -> None:
    """The command in this process."""
    done = CliRunner().invoke(app, arguments[arguments.index("train") :])
    assert done.exit_code == code, done.output


def finished(arguments: list[str], code: int = 0) -> str:
    process = started(arguments)
    err = process.communicate(timeout=240)[1]
    assert process.returncode == code, err
    return err


def records(folder: Path, event: str) -> list[dict]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [each for each in lines if each["event"] == event]


@pytest.mark.slow  # processes that import torch and compile kernels' dispatch
def test_two_processes_equal_one_with_the_doubled_batch(settings: dict, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    here(command(settings, one))
    err = finished(command(settings, two, *TORCHRUN))
    assert err.count("done after 4 steps") == 1  # only the main process speaks
    for first, second in zip(records(one, "step"), records(two, "step"), strict=True):
        assert second["crops"] == first["crops"] == 4
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
        assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)
    states = [find_state("auto", folder) for folder in (one, two)]
    for name, value in states[0]["model"].items():
        torch.testing.assert_close(states[1]["model"][name], value, rtol=0, atol=2e-6)
    psnr = [records(folder, "validation")[0] for folder in (one, two)]
    assert psnr[0]["images"] == psnr[1]["images"] == 3
    assert psnr[1]["psnr"] == pytest.approx(psnr[0]["psnr"], abs=1e-3)
    assert json.loads((two / "run.json").read_text())[0]["processes"] == 2


def test_a_launcher_that_starts_one_process_of_two_is_refused(settings: dict, tmp_path: Path) -> None:
    err = finished(command(settings, tmp_path / "run", *ACCELERATE), code=1)  # the launcher's own exit code
    assert "torchrun" in err and "exit status 2" in err
    assert not (tmp_path / "run").exists()


def until_step(process: subprocess.Popen, step: int) -> None:
    for line in process.stderr:
        if line.startswith(f"step {step} "):
            return
    raise AssertionError("the run ended early")


@pytest.mark.slow  # a process that is started and killed, and three runs here
@pytest.mark.parametrize("killer", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_resumes_as_if_nothing_had_happened(
    killer: signal.Signals, settings: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = {
        **settings,
        "iterations": 4000,
        "save_every": 2,
        "optimiser": {"lr": 1e-3},
        "validation": {"every": 4000},
    }
    killed = tmp_path / "killed"
    process = started(command(long, killed))
    until_step(process, 5)
    process.send_signal(killer)
    begin = time.monotonic()
    err = process.communicate(timeout=60)[1]
    assert time.monotonic() - begin < 20
    reached = find_state("auto", killed)["step"]
    if killer == signal.SIGTERM:
        assert process.returncode == 130 and "--resume auto" in err
    else:
        logged = max(each["step"] for each in records(killed, "step"))
        assert process.returncode == -signal.SIGKILL and logged - 2 <= reached <= logged + 1
    end = {"iterations": reached + 3, "save_every": 1}
    # The rate follows the length of the run: the uninterrupted run is of the killed run's length until it was killed.
    whole = tmp_path / "whole"
    make = Trainer.make_batch

    def ending(trainer: Trainer, *arguments: object) -> object:
        if trainer.step > reached:
            os.kill(os.getpid(), signal.SIGTERM)
        return make(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "make_batch", ending)
        here(command(long, whole, save_every=1, keep_states=1000), code=130)
    here([*command({**long, **end}, killed), "--resume", "auto"])
    here([*command({**long, **end}, tmp_path / "again"), "--resume", str(whole / f"state-{reached:07d}.pt")])
    first, second = (
        find_state(folder / f"state-{reached + 3:07d}.pt", folder) for folder in (killed, tmp_path / "again")
    )
    for part in ("model", "ema"):
        assert all(torch.equal(value, second[part][name]) for name, value in first[part].items()), part


@pytest.mark.slow  # trains for up to a minute
def test_a_miniature_gopro_set_is_learnt_from_scratch(tmp_path: Path) -> None:
    """At least 1 dB on photographs that were not trained on, blurred by a circular path 5 pixels wide."""
    photographs(tmp_path)
    settings = {
        "name": "gopro-mini",
        "model": {"width": 8, "encoder_blocks": [1, 0, 0], "decoder_blocks": [1, 0, 0], "d_state": 4},
        "data": {
            "pairs": [{"dataset": "gopro", "root": str(tmp_path / "GoPro")}],
            "patch": 48,
            "batch": 2,
        },
        "optimiser": {"lr": 4e-3, "warmup": 10},
        "ema_decay": 0.98,
        "iterations": 400,
        "validation": {
            "every": 400,
            "pairs": {"dataset": "gopro", "root": str(tmp_path / "GoPro"), "split": "test"},
        },
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    finished(command(settings, tmp_path / "run"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime  # of its one processor
    (found,) = records(tmp_path / "run", "validation")
    assert found["psnr"] > found["psnr_blur"] + 1.0
    assert seconds < 120
    assert (tmp_path / "run" / "curves.png").stat().st_size > 5000


@pytest.mark.parametrize(("launched", "cpu"), [(False, False), (True, True)])
def test_alone_no_device_is_asked_of_accelerate(
    monkeypatch: pytest.MonkeyPatch, launched: bool, cpu: bool
) -> None:
    """It keeps one for the whole program: a run on the CPU after one on a GPU was an error."""
    asked = []

    class Accelerator:
        num_processes, process_index, is_main_process = 1, 0, True

        def __init__(self, **options: object) -> None:
            asked.append(options["cpu"])

    for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    if launched:
        monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr("accelerate.Accelerator", Accelerator)
    assert Processes("cpu").device == torch.device("cpu")
    assert asked == [cpu]
