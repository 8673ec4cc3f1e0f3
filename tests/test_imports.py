"""Imports run downwards only, the library is silent, and starting is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest

import xyscan_cli
import xyscannet

LIBRARY = Path(xyscannet.__file__).parent
CLI = Path(xyscan_cli.__file__).parent

# Room -> the rooms it may import; a room may always import itself, and everyone SMALL.
SMALL = {"environment", "errors", "files", "opencv", "control_groups"}
MODELS = {"ops", "models"}
PLAIN = {"images", "data", "losses", "metrics"}  # know no models
ALLOWED = {
    "torchvision_guard": set(),
    "ops": set(),
    "models": {"ops", "torchvision_guard"},
    "authors": {"models"},
    "checkpoint_file": {"models", "authors"},
    "checkpoint": MODELS | {"checkpoint_file", "authors", "addresses"},
    "images": set(),
    "video": {"images"},
    "metrics": {"images", "video", "torchvision_guard"},
    "data": {"ops", "images", "addresses"},
    "losses": set(),
    "addresses": set(),
    "inference": MODELS | {"checkpoint", "images", "video", "addresses"},
    "training": MODELS | {"checkpoint", "addresses"} | PLAIN,
    "evaluation": MODELS | {"checkpoint", "inference", "images", "data", "metrics", "reports", "addresses"},
    "analysis": MODELS
    | {"checkpoint", "inference", "training", "video", "evaluation", "reports", "addresses"}
    | PLAIN,
    "reports": set(),
    "environment": set(),
    "errors": set(),
    "files": set(),
    "opencv": set(),
    "control_groups": set(),
    "__init__": MODELS | {"inference", "__init__"},
}
# Heavy packages that must not be imported when a module of the room is (inside a function they may be).
NO_TORCH = SMALL | {"images", "reports", "__init__"}
OPTIONAL = {"pyiqa", "lpips", "cleanfid", "spandrel", "av", "ray", "matplotlib", "tensorboard", "accelerate"}
OPTIONAL |= {
    "skimage",
    "spandrel_extra_arches",
    "mamba_ssm",
    "causal_conv1d",
    "torchvision",
    "stlpips_pytorch",
    "aiohttp",
    "pillow_heif",
}


def modules(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(LIBRARY).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path, *, top_only: bool = False) -> list[tuple[int, str]]:
    """Line and absolute dotted name of everything the file imports."""
    nodes = _on_import(tree(path)) if top_only else ast.walk(tree(path))
    package = (
        list(path.relative_to(LIBRARY.parent).with_suffix("").parts[:-1]) if LIBRARY in path.parents else []
    )
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def _on_import(node: ast.AST) -> Iterable[ast.AST]:
    """The nodes that run when the module is imported: not those in functions or under TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _on_import(child)


def offences(path: Path) -> list[str]:
    """What the file imports against the table."""
    here = room(path)
    wrong = []
    for line, name in imported(path):
        parts = name.split(".")
        if parts[0] == "xyscan_cli":
            wrong.append(f"{path}:{line}: the library imports the command line: {name}")
        if parts[0] != "xyscannet" or len(parts) < 2:
            continue
        there = parts[1]
        known = there in ALLOWED
        if known and there not in ALLOWED[here] | {here} | SMALL:
            wrong.append(f"{path}:{line}: {here} imports {there}")
    return wrong


def test_every_room_is_in_the_table():
    unknown = {room(path) for path in modules(LIBRARY)} - set(ALLOWED)
    assert not unknown, f"say in ALLOWED what these may import: {unknown}"


def test_the_table_has_no_cycles():
    done: set[str] = set()
    waiting = {name: set(below) - {name} for name, below in ALLOWED.items()}
    while waiting:
        free = {name for name, below in waiting.items() if below <= done}
        assert free, f"these import each other: {sorted(waiting)}"
        done |= free
        waiting = {name: below for name, below in waiting.items() if name not in free}


def test_imports_run_downwards():
    assert not [offence for path in modules(LIBRARY) for offence in offences(path)]


def words(path: Path) -> list[str]:
    """What the file could say to a person itself."""
    heard = [
        (line, name) for line, name in imported(path) if name.split(".")[0] in {"typer", "rich", "click"}
    ]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            loud = called in {"print", "sys.exit", "exit", "quit", "os._exit"}
            if loud or called.startswith(("sys.stdout", "sys.stderr")):
                heard.append((node.lineno, called))
    return [f"{path}:{line}: {name}" for line, name in heard]


def test_the_library_is_silent():
    assert not [word for path in modules(LIBRARY) for word in words(path)]


def weights(path: Path) -> list[str]:
    """The heavy packages that are imported with the file and should be where they are used."""
    heavy = {name.split(".")[0] for _, name in imported(path, top_only=True)}
    wrong = heavy & OPTIONAL
    if path.name != "opencv.py":  # from xyscannet.opencv import cv2
        wrong |= heavy & {"cv2"}
    if CLI in path.parents or room(path) in NO_TORCH:
        wrong |= heavy & {"torch"}
    return [f"{path}: {name}" for name in sorted(wrong)]


def test_heavy_packages_are_imported_where_used():
    assert not [weight for path in modules(LIBRARY) + modules(CLI) for weight in weights(path)]


def test_the_checks_can_fail(tmp_path, monkeypatch):
    fake = tmp_path / "xyscannet"
    (fake / "ops").mkdir(parents=True)
    path = fake / "ops" / "bad.py"
    path.write_text(
        "from ..models import zoo\nimport xyscan_cli.app\nfrom xyscannet import checkpoint, errors\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "LIBRARY", fake)
    assert [text.partition(": ")[2] for text in offences(path)] == [
        "ops imports models",
        "the library imports the command line: xyscan_cli.app",
        "ops imports checkpoint",
    ]
    path = fake / "files.py"
    path.write_text("import rich.text, torch, cv2, av\nprint(1)\nsys.stderr.write('')\n")
    assert [text.rpartition(": ")[2] for text in words(path)] == ["rich.text", "print", "sys.stderr.write"]
    assert [text.rpartition(": ")[2] for text in weights(path)] == ["av", "cv2", "torch"]


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_does_not_import_torch():
    loaded = loaded_by("import xyscannet, xyscannet.errors")
    assert "xyscannet.errors" in loaded
    assert not loaded & {"torch", "numpy", "numba", "cv2", "PIL"}


def test_help_does_not_import_torch():
    run = "from xyscan_cli.app import app; from typer.testing import CliRunner; CliRunner().invoke(app, ['--help'])"
    loaded = loaded_by(run)
    assert "xyscan_cli.app" in loaded
    assert not loaded & {"torch", "numpy", "numba", "cv2", "PIL"}


def test_a_network_needs_no_numba_before_it_runs():
    assert "numba" not in loaded_by("import xyscannet.inference")


def test_images_need_no_torch():
    assert "torch" not in loaded_by("import xyscannet.images")


@pytest.mark.skipif(
    version("torch").startswith("2.6."), reason="torch 2.6 itself does, as it makes weights without memory"
)
def test_restoring_does_not_import_the_compiler(tmp_path):
    """torch._dynamo and sympy take 2 s of processor time: the checkpoint's check and the operators do without."""
    path = str(tmp_path / "w.safetensors")
    run = (
        "import torch; from xyscannet import checkpoint; from xyscannet.models import XYScanNet, XYScanNetConfig; "
        "config = XYScanNetConfig(width=8, encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1)); "
        f"checkpoint.save({path!r}, XYScanNet(config), config); model = checkpoint.load_model({path!r}); "
        "torch.inference_mode()(model)(torch.rand(1, 3, 8, 8))"
    )
    loaded = loaded_by(run)
    assert "xyscannet.models.mamba" in loaded
    assert not loaded & {"torch._dynamo", "sympy"}
