"""What is installed is whole: the wheel holds the code and its data, and asks for nothing it must not."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import xyscannet

ROOT = Path(__file__).resolve().parent.parent
CORE = {
    "torch",
    "numpy",
    "numba",
    "pillow",
    "opencv-python-headless",
    "typer",
    "rich",
    "safetensors",
    "pydantic",
    "pyyaml",
}
EXTRAS = {"metrics", "train", "video", "cluster", "peers", "figures", "cuda", "test"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def tracked(*patterns: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}


def test_wheel_holds_code_and_data(wheel):
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    code = tracked("xyscannet/**/*.py", "xyscan_cli/**/*.py")
    data = tracked("xyscannet/weights/*.safetensors", "xyscannet/weights/*.md", "xyscannet/recipes/*.yaml")
    assert "xyscannet/py.typed" in held
    assert any(name.startswith("xyscannet/recipes/") for name in held)
    assert code | data <= held
    assert {name.partition("/")[0] for name in held} == {"xyscannet", "xyscan_cli"}
    assert not [name for name in held if name.endswith((".pyc", ".nbi", ".nbc"))]


def test_wheel_metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    text = wheel.read(name).decode()
    assert re.search(rf"^Version: {re.escape(xyscannet.__version__)}$", text, re.MULTILINE)
    assert "License-Expression: Apache-2.0" in text
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
    entry = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "xyscan = xyscan_cli.app:main" in wheel.read(entry).decode()
    required = re.findall(r"^Requires-Dist: ([\w.-]+)(.*)$", text, re.MULTILINE)
    assert {package for package, rest in required if "extra ==" not in rest} == CORE
    assert {package for package, rest in required if "'test'" in rest}.isdisjoint(
        {"torchvision", "pyiqa", "lpips"}
    )
    assert set(re.findall(r"^Provides-Extra: (.+)$", text, re.MULTILINE)) == EXTRAS


def test_messages_name_extras_that_exist():
    for path in [*ROOT.glob("xyscannet/**/*.py"), *ROOT.glob("xyscan_cli/**/*.py"), ROOT / "README.md"]:
        named = re.findall(r"xyscannet\[(\w+)\]", path.read_text(encoding="utf-8"))
        assert set(named) <= EXTRAS, path


def test_the_installed_package_is_whole():
    try:
        files = importlib.metadata.files("xyscannet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("xyscannet is not installed here")
    installed = {file.as_posix() for file in files or []}
    if not any(name.startswith("xyscannet/") for name in installed):
        pytest.skip("xyscannet is installed in editable form")
    assert Path(xyscannet.__file__).resolve().parent != ROOT / "xyscannet"
    assert importlib.metadata.version("xyscannet") == xyscannet.__version__
    for name in tracked("xyscannet/weights/*", "xyscannet/recipes/*", "xyscannet/py.typed"):
        assert name in installed, name


def test_the_version_is_in_the_changelog():
    assert f"## [{xyscannet.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_ci_runs_the_command_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\{ (pip install .+pytest.+); \}", script, re.MULTILINE)
    assert line in (ROOT / "README.md").read_text(encoding="utf-8").replace("\\\n", " ")
