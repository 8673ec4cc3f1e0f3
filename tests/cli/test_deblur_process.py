"""`xyscan deblur` as a process: Ctrl-C, a full disk, paths without rights."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from xyscan_cli.app import app

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path: Path, tiny_weights: Path):
    """Start the command in its own process. The kernels are compiled before, so that no limit meets the compiler."""
    shutil.copy(tiny_weights, tmp_path / "tiny.safetensors")
    picture(tmp_path / "warm.png", 8, 8)
    arguments = ["deblur", "-w", str(tiny_weights)]
    assert (
        CliRunner().invoke(app, [*arguments, str(tmp_path / "warm.png"), str(tmp_path / "warm")]).exit_code
        == 0
    )
    (tmp_path / "warm.png").unlink()
    shutil.rmtree(tmp_path / "warm")

    def run(*arguments: str, **options) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "xyscan_cli", "deblur", "-w", "tiny.safetensors", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return run


def picture(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.01)


def test_interrupted_in_the_middle_and_finished_later(tmp_path: Path, start) -> None:
    names = [f"{i:02d}.png" for i in range(40)]
    for name in names:
        picture(tmp_path / "in" / name, 96, 96)
    process = start("in", "out")
    wait_for(tmp_path / "out/01.png", process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    there = sorted(os.listdir(tmp_path / "out"))
    assert there == names[: len(there)] and 2 <= len(there) < 40
    for name in there:
        Image.open(tmp_path / "out" / name).load()
    assert f"{len(there)} of 40 images done" in stderr and "--exist skip" in stderr
    assert stderr.count("error:") == 1 and "Traceback" not in stderr and stdout == ""

    process = start("in", "out", "--exist", "skip")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert f"{40 - len(there)} of {40 - len(there)} images done" in stderr
    assert sorted(os.listdir(tmp_path / "out")) == names


def test_a_full_disk_fails_what_does_not_fit(tmp_path: Path, start) -> None:
    (
        picture(tmp_path / "in/a.png", 16, 16),
        picture(tmp_path / "in/b.png", 200, 200),
        picture(tmp_path / "in/c.png", 16, 16),
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start("in", "out", preexec_fn=limit)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    assert sorted(os.listdir(tmp_path / "out")) == ["a.png", "c.png"]
    assert "2 of 3 images done" in stderr
    assert "out/b.png: " in stderr.split("1 failed:")[1] and "Traceback" not in stderr


def test_paths_without_rights(tmp_path: Path, start) -> None:
    for name in ("in/a.png", "in/secret.png", "in/closed/b.png", "in/listed/c.png"):
        picture(tmp_path / name, 16, 16)
    (tmp_path / "in/link.png").symlink_to("closed/b.png")
    (tmp_path / "in/secret.png").chmod(0)
    (tmp_path / "in/closed").chmod(0)
    (tmp_path / "in/listed").chmod(0o444)  # its names may be read, no more
    (tmp_path / "locked").mkdir(mode=0o555)
    (tmp_path / "shut").mkdir(mode=0)

    def without_privilege() -> None:
        """Where the tests run as root: give up the right to override the rights of files, for good."""
        if os.getuid() == 0:
            drop_from_bounding_set, override, read_search = 24, 1, 2
            for capability in (override, read_search):
                assert ctypes.CDLL(None).prctl(drop_from_bounding_set, capability, 0, 0, 0) == 0

    for output, words in (("locked/out", "cannot be written"), ("shut/out", "shut/out: no permission")):
        process = start("in", output, preexec_fn=without_privilege)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 2 and words in stderr, stderr

    process = start("in", "out", preexec_fn=without_privilege)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1, stderr
    assert os.listdir(tmp_path / "out") == ["a.png"]
    failures = stderr.split("4 failed:")[1]
    for name in ("in/secret.png", "in/closed", "in/listed", "in/link.png"):
        assert f" {name}: " in failures
    assert "Traceback" not in stderr
