"""The functions that bring tiles are compiled once for all kernels' calls."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from numba import njit

from xyscannet import ops
from xyscannet.ops.tiles import ONE, ZERO

MOVES = ("load_tile", "store_tile", "prefetch_tile", "address_of")
KERNELS = sorted(Path(ops.__file__).parent.glob("*/cpu_kernels.py"))


def test_numbers_do_not_enter_a_functions_type() -> None:
    @njit
    def called(number):
        return number + 1

    @njit
    def calls():
        return called(ZERO) + called(ONE)

    assert calls() == 3 and len(called.signatures) == 1


@pytest.mark.parametrize("kernels", KERNELS, ids=lambda path: path.parent.name)
def test_kernels_move_tiles_without_plain_constants(kernels: Path) -> None:
    for call in ast.walk(ast.parse(kernels.read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in MOVES:
            plain = [ast.unparse(each) for each in call.args if isinstance(each, ast.Constant)]
            assert not plain, f"line {call.lineno}: {ast.unparse(call)}"
