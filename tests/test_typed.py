"""The public interface says its types, and what it is for: `py.typed` promises it to those who build on it."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

import xyscannet

LIBRARY = Path(xyscannet.__file__).parent
# kernels, which have other languages' types, and operators, whose schema says them to torch
KERNELS = ("triton", "_kernels", "simd", "tiles", "_walk", "_parts", "_pixels", "layout", "operator")
MODULES = [
    path
    for path in sorted(LIBRARY.rglob("*.py"))
    if not path.stem.endswith(KERNELS) and path.parent.name not in KERNELS
]
DOORS = [
    "xyscannet",
    "xyscannet.models",
    "xyscannet.images",
    "xyscannet.inference",
    "xyscannet.ops",
    "xyscannet.files",
]


def public_functions(tree: ast.Module) -> list[tuple[str, ast.FunctionDef]]:
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found.append((node.name, node))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and (
                    member.name == "__init__" or not member.name.startswith("_")
                ):
                    found.append((f"{node.name}.{member.name}", member))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))
def test_every_public_function_says_its_types(path: Path) -> None:
    untyped = []
    for name, function in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
        arguments = function.args
        given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        given = [argument for argument in given if argument.arg not in ("self", "cls")]
        given += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
        if any(argument.annotation is None for argument in given) or function.returns is None:
            untyped.append(f"{path}:{function.lineno}: {name}")
    assert not untyped


@pytest.mark.parametrize("door", DOORS)
def test_every_name_of_a_public_door_is_documented(door: str) -> None:
    module = importlib.import_module(door)
    assert module.__doc__
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    bare = []
    for name in names:
        value = getattr(module, name)
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__.startswith("xyscannet"):
            own = value.__doc__ or ""
            if not own.strip() or own.startswith(f"{name}("):  # what dataclasses write by themselves
                bare.append(f"{door}.{name}")
    assert not bare


def test_a_typed_interface_is_promised() -> None:
    assert (LIBRARY / "py.typed").is_file()
    assert {"load", "XYScanNet", "XYScanNetConfig"} <= set(xyscannet.__all__)
    assert xyscannet.load.__annotations__["return"] == "Restorer"
