"""A vector type for Numba kernels, with the few operations that the CPU kernels need.

Numba's automatic vectorisation gives up on loops over several arrays that may overlap. Here the lanes are written
down: a `Vector` is `LANES` float32 (or float64) values, as many float32 as a register of the machine holds. Memory is
reached through plain integer addresses, so a tensor of any strides and of float32, bfloat16 or float64 is read without
a copy. Arithmetic allows contraction (a*b+c as one FMA) and nothing else, so NaN and infinity behave.
"""

from __future__ import annotations

from xyscannet.ops.simd.functions import (
    LOG2E,
    NEAR,
    exp2,
    exp2_near,
    sigmoid,
    softplus,
    square_root,
)
from xyscannet.ops.simd.inner import OfKernels, inlined, inner
from xyscannet.ops.simd.memory import (
    BF16,
    F32,
    F64,
    ITEM_SIZE,
    prefetch,
    read_lanes,
    read_one,
    write_lanes,
    write_one,
)
from xyscannet.ops.simd.products import PIXELS, multiply, pack
from xyscannet.ops.simd.scratch import clear, copy
from xyscannet.ops.simd.vector import (
    LANES,
    WIDE,
    Vector,
    greatest,
    load,
    load_wide,
    maximum,
    splat,
    splat_wide,
    spread,
    store,
    total,
    totals,
)

__all__ = [
    "BF16",
    "F32",
    "F64",
    "ITEM_SIZE",
    "LANES",
    "LOG2E",
    "NEAR",
    "PIXELS",
    "WIDE",
    "OfKernels",
    "Vector",
    "clear",
    "copy",
    "exp2",
    "exp2_near",
    "greatest",
    "inlined",
    "inner",
    "load",
    "load_wide",
    "maximum",
    "multiply",
    "pack",
    "prefetch",
    "read_lanes",
    "read_one",
    "sigmoid",
    "softplus",
    "splat",
    "splat_wide",
    "spread",
    "square_root",
    "store",
    "total",
    "totals",
    "write_lanes",
    "write_one",
]
