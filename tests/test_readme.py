"""Every command and the Python of the README run as written."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.subprocesses import environment
from tests.video import clips
from xyscan_cli.app import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (xyscan .+?)(?:\s{2,}#.*)?$", README, flags=re.MULTILINE)
PYTHON = re.search(r"```python\n(.+?)```", README, flags=re.DOTALL)


def xyscan(command: str) -> Result:
    return CliRunner().invoke(app, shlex.split(command)[1:])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Here lies what the README's commands expect: a photograph, a clip, folders of blurred and of sharp ones."""
    monkeypatch.chdir(tmp_path)
    grain = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    texture = cv2.resize(grain, (320, 320), interpolation=cv2.INTER_NEAREST)
    small = texture[:64, :80]
    for name in ("blurry.jpg", "photos/a.png", "photos/trip/b.jpg", "raw/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), small)
    for name in ("sharp/d.png", "sharp/e.png", "val/f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), texture)
    clips.write(tmp_path / "clip.mp4", clips.pan(6))
    return tmp_path


def test_the_readme_has_its_two_commands():
    assert "\n    pip install . && xyscan deblur examples out\n" in README
    assert '\n    pip install ".[test]" && pytest -n auto -m "not gpu"\n' in README
    assert len(COMMANDS) >= 9 and PYTHON


def test_the_example_photographs_are_deblurred(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    command = [sys.executable, "-m", "xyscan_cli", "deblur", "examples", "out"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    for photo in (ROOT / "examples").glob("*.jpg"):
        blur, restored = cv2.imread(str(photo)), cv2.imread(str(tmp_path / "out" / photo.name))
        assert restored.shape == blur.shape
        assert np.abs(restored.astype(int) - blur).mean() > 0.05  # it did something,
        assert abs(restored.mean() - blur.mean()) < 1  # and shifted no tone


@pytest.mark.slow  # `bench` and `train smoke` take up to a minute each
@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, folder):
    if "pairs/" in command and "synth" not in command:
        xyscan("xyscan data synth sharp/ pairs/")
    done = xyscan(command)
    assert done.exit_code == 0, done.output
    if command.startswith("xyscan deblur"):
        results = [p for p in folder.rglob("*") if p.name in ("sharp.jpg", "sharp.mp4") or "out" in p.parts]
        assert results


def test_python(folder):
    exec(compile(PYTHON[1], "README.md", "exec"), {})
