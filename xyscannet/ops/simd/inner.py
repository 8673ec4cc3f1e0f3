"""How functions are compiled that only kernels call.

By default numba gives each function two entries, from Python and from C. They cost a sixth of the time that all kernels
take to compile, and are left out here: Python must not call such a function, since nothing is there to call.

A constant number in the place of an argument is a type of its own to numba, and the function is compiled once more for
it: large ones are given `xyscannet.ops.tiles.ZERO` or `ONE` instead.
"""

from __future__ import annotations

from typing import Any

from numba import njit

_OPTIONS: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

inner = njit(**_OPTIONS)

# Becomes a part of whatever calls it, as numba's inline="always" makes it, but is compiled once and not at each place.
# The gates of `ops.kl_gate` (by a quarter) and the statistics of `ops.norm` run faster with numba's.
inlined = njit(**_OPTIONS, forceinline=True)
