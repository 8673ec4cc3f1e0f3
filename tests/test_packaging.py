"""What is installed is whole: the wheel holds the code and its data, and asks for nothing it must not."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xyscannet
from xyscan_cli import machine

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
EXTRAS = {"metrics", "train", "video", "heif", "cluster", "peers", "figures", "cuda", "test"}


def build(kind: str, source: Path, out: Path) -> Path:
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    run = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The unpacked source distribution."""
    packed = build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root


@pytest.fixture(scope="module")
def wheel_file(sdist, tmp_path_factory) -> Path:
    """The wheel made from the source distribution alone."""
    return build("wheel", sdist, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def wheel(wheel_file) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(wheel_file) as archive:
        yield archive


def tracked(*patterns: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern)}


def test_sdist_holds_what_the_project_is_built_and_tested_from(sdist):
    names = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".ci/run", "tests/conftest.py")
    assert [name for name in names if not (sdist / name).is_file()] == []
    held = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    assert tracked("xyscannet/**/*.py", "xyscan_cli/**/*.py", "tests/**/*.py", "docs/*.md") <= held
    assert not [name for name in held if "__pycache__" in name or name.startswith("runs/")]


def test_wheel_holds_code_and_data(wheel):
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    code = tracked("xyscannet/**/*.py", "xyscan_cli/**/*.py")
    data = tracked("xyscannet/weights/*.safetensors", "xyscannet/weights/*.md", "xyscannet/**/*.yaml")
    data |= tracked("xyscannet/reports/page/*") - tracked("xyscannet/reports/page/__pycache__")
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


def test_the_doctor_and_the_readme_know_the_extras_packages(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    required = re.findall(
        r"^Requires-Dist: ([\w.-]+).*extra == '(\w+)'", wheel.read(name).decode(), re.MULTILINE
    )
    packages: dict[str, set[str]] = {}
    for package, extra in required:
        packages.setdefault(extra, set()).add(package.lower().replace("_", "-"))
    packages.pop("test")
    assert {extra: set(members) for extra, members in machine.EXTRAS.items()} == packages
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for extra, members in packages.items():
        (row,) = re.findall(rf"^\| `{extra}` \|.*", readme, re.MULTILINE)
        assert all(name in row.replace("_", "-") for name in members), row


def test_messages_name_extras_that_exist():
    for path in [*ROOT.glob("xyscannet/**/*.py"), *ROOT.glob("xyscan_cli/**/*.py"), ROOT / "README.md"]:
        named = re.findall(r"xyscannet\[(\w+)\]", path.read_text(encoding="utf-8"))
        assert set(named) <= EXTRAS, path


@pytest.fixture(scope="module")
def alone(wheel_file, tmp_path_factory) -> Path:
    """A new virtual environment with the wheel, which borrows nothing but the dependencies."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    done = subprocess.run([*install, str(wheel_file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "zz-dependencies.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    _take_compiled_kernels(site / "xyscannet")
    return folder


def _take_compiled_kernels(installed: Path) -> None:
    """Those of the tested package serve the same sources: compiling them again takes half a minute."""
    tested = Path(xyscannet.__file__).parent
    for index in tested.glob("ops/**/__pycache__/*.nb[ic]"):
        place = installed / index.relative_to(tested)
        place.parent.mkdir(exist_ok=True)
        shutil.copy2(index, place)
    for source in tested.glob("ops/**/*.py"):
        at = source.stat()
        os.utime(installed / source.relative_to(tested), ns=(at.st_atime_ns, at.st_mtime_ns))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX layout of virtual environments")
@pytest.mark.slow  # three commands of their own
def test_the_wheel_works_installed_alone(alone):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))
    }

    def run(*command: str) -> str:
        program = alone / "venv" / "bin" / command[0]
        done = subprocess.run(
            [str(program), *command[1:]],
            cwd=alone,
            env=environment,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(
        "python", "-c", "import xyscannet, xyscan_cli; print(xyscannet.__file__, xyscan_cli.__file__)"
    )
    assert all(Path(path).is_relative_to(alone / "venv") for path in where.split()), where
    assert "deblur" in run("xyscan", "--help")
    record = json.loads(run("xyscan", "models", "info", "xyscannet-s", "--json"))
    assert record["parameters"] and Path(record["file"]).is_relative_to(alone / "venv")
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(image).save(alone / "a.png")
    run("xyscan", "deblur", "a.png", "out/b.png")
    assert np.asarray(Image.open(alone / "out" / "b.png")).shape == image.shape


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
