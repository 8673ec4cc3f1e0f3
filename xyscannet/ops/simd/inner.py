"""How functions are compiled that only kernels call.

By default numba gives each function two entries, from Python and from C. They cost a sixth of the time that all kernels
take to compile, and are left out here: nothing is there that Python could call, and trying is an error.

A constant number in the place of an argument is a type of its own to numba, and the function is compiled once more for
it: large ones are given `xyscannet.ops.tiles.ZERO` or `ONE` instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.registry import CPUDispatcher


class OfKernels(CPUDispatcher):
    """A compiled function without an entry from Python, at whose place numba's own would jump nowhere."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"{self.py_func.__qualname__} can be called by compiled kernels only")


def _without_entries(**options: Any) -> Callable[[Callable], Callable]:
    compiling = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, **options)

    def decorate(function: Callable) -> Callable:
        made = compiling(function)
        made.__class__ = OfKernels
        return made

    return decorate


inner = _without_entries()

# Becomes a part of whatever calls it, as numba's inline="always" makes it, but is compiled once and not at each place.
# The gates of `ops.kl_gate` (by a quarter) and the statistics of `ops.norm` run faster with numba's.
inlined = _without_entries(forceinline=True)
