"""Functions that only kernels call."""

from __future__ import annotations

from numba import njit

# Without the two entries that each compiled function gets by default, from Python and from C, which cost a sixth of
# the time that all kernels take to compile. Python must not call such a function: nothing is there, and it crashes.
inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

# As a part of each function that calls it, without a call.
inlined = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)
