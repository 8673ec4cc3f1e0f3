"""Every command and all Python of the guides run as written, in the guide's order, on miniature sets.

A training command gets overrides appended that only shrink it, and so do commands that look into networks; a launcher
of many processes is left out (that it works is tested in tests/training/test_processes.py).
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.data import miniature
from tests.video import clips
from xyscan_cli.app import app

DOCS = Path(__file__).resolve().parent.parent / "docs"
AUTHORS = Path(__file__).parent / "data" / "official_dim16_b112.pth"
TABLES = {"reliability.md"}  # its rows name the tests that hold them
GUIDES = sorted(
    (path.name for path in DOCS.glob("*.md")), key=lambda name: (name == "analysis.md", name)
)  # which compiles many kernels, unless train.md, or README's commands in another process, have done so already
COMMAND = re.compile(r"^    ((?:torchrun|accelerate launch|xyscan) .+?)(?:\s{2,}#.*)?$", re.MULTILINE)
LAUNCHER = re.compile(r"(?:torchrun|accelerate launch) .*?-m xyscan_cli")
PYTHON = re.compile(r"```python\n(.+?)```", re.DOTALL)

SMALL = [
    "model={width: 8, encoder_blocks: [1, 0, 0], decoder_blocks: [1, 0, 0], d_state: 4}",
    "stages=[{until: 0.5, patch: 32, batch: 2}, {until: 1.0, patch: 40, batch: 2}]",
    "data.workers=1",
    "data.prefetch=1",
    "iterations=2",
    "tensorboard=false",
    "validation.crop=64",
    "validation.images=1",
    "loss.contrastive=0",
]
FEW = {
    "erf": ["--size", "16", "--inputs", "1"],
    "features": ["--size", "32"],
    "ablate": ["--seeds", "1", "--repeats", "1", "--no-memory"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the guides expect to find: photographs, the known sets, the authors' weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XYSCAN_DATA", str(tmp_path))
    grain = np.random.default_rng(0).integers(0, 255, (26, 26, 3), dtype=np.uint8)
    texture = cv2.resize(grain, (208, 208), interpolation=cv2.INTER_CUBIC)
    for make, name in (
        (miniature.gopro_sequences, "gopro"),
        (miniature.hide_blur_sharp, "hide"),
        (miniature.rwbi_flat, "rwbi"),
    ):
        make(tmp_path / name)
    for letter in "JR":
        miniature.realblur_lists(tmp_path / "realblur", letter)
    for path in (path for path in tmp_path.rglob("*") if path.suffix in (".png", ".jpg")):
        cv2.imwrite(
            str(path), texture[:112, :112]
        )  # enough for NIQE; alike, as RealBlur's alignment needs it
    small = ["blurry.jpg", "photos/trip/b.jpg", "raw/c.png", "more.jpg"]
    for name in ("sharp/a.png", "sharp/b.png", "blurry/a.png", "blurry/b.png", "val/c.png", *small):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(tmp_path / name), texture[:40, :56] if name in small else texture)
    if importlib.util.find_spec("av"):
        clips.write(tmp_path / "clip.mp4", clips.pan(4, 32, 48))
    for name in ("theirs", "ours"):
        shutil.copytree(tmp_path / "sharp", tmp_path / name)
    shutil.copy(AUTHORS, tmp_path / "authors.pth")
    return tmp_path


def arguments(command: str) -> list[str]:
    words = shlex.split(LAUNCHER.sub("xyscan", command))[1:]
    if words[0] in ("train", "ablate") and not {"--list", "--print-config", "--from"} & set(words):
        words += [word for override in SMALL for word in ("--set", override)]
    return words + FEW.get(words[0], [])


def test_there_are_guides_and_they_have_commands() -> None:
    assert set(GUIDES) >= {"deblur.md", "evaluate.md", "train.md", "reproduce.md", "library.md"}
    for guide in GUIDES:
        text = (DOCS / guide).read_text(encoding="utf-8")
        assert guide in TABLES or COMMAND.search(text) or PYTHON.search(text), guide
        lines = re.findall(r"^    \w.*", PYTHON.sub("", text), re.MULTILINE)
        assert len(lines) == len(COMMAND.findall(text)), f"{guide} has commands that no test runs"


@pytest.fixture
def small_ray(request: pytest.FixtureRequest):
    """One small cluster for all commands of a guide that work on one."""
    if "--cluster" not in (DOCS / request.node.callspec.params["guide"]).read_text(encoding="utf-8"):
        yield
        return
    ray = pytest.importorskip("ray", reason="ray is not installed")
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=2, object_store_memory=80 * 2**20, **quiet)
    yield
    ray.shutdown()


@pytest.mark.slow  # tens of commands
@pytest.mark.parametrize("guide", [name for name in GUIDES if COMMAND.search((DOCS / name).read_text())])
def test_commands_of(guide: str, folder: Path, small_ray: None) -> None:
    for package in ("pyiqa", "lpips", "accelerate", "matplotlib", "av"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    for command in COMMAND.findall((DOCS / guide).read_text(encoding="utf-8")):
        result = CliRunner().invoke(app, arguments(command))
        few = command.startswith(
            "xyscan data check"
        )  # which counts it as a problem that the sets are miniatures
        assert result.exit_code == int(few), f"{command}\n{result.output}"


@pytest.mark.parametrize("guide", [name for name in GUIDES if PYTHON.search((DOCS / name).read_text())])
def test_python_of(guide: str, folder: Path) -> None:
    for number, code in enumerate(PYTHON.findall((DOCS / guide).read_text(encoding="utf-8"))):
        exec(compile(code, f"{guide}, block {number + 1}", "exec"), {})
