"""The vector type's operations, lane by lane, and the kernels on vectors of another width than this machine's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from numba.core.errors import TypingError

from xyscannet.ops import simd
from xyscannet.ops.simd import (
    LANES,
    NEAR,
    WIDE,
    clear,
    copy,
    exp2,
    exp2_near,
    greatest,
    inlined,
    inner,
    load,
    load_wide,
    maximum,
    sigmoid,
    softplus,
    splat,
    spread,
    store,
    total,
    totals,
)

REAL = [np.float32, np.float64]


@njit
def powers(x, y, general, near):
    for i in range(0, x.size, LANES):
        store(general, i, exp2(load(x, i) * load(y, i)))
        store(near, i, exp2_near(load(x, i), load(y, i)))


@pytest.mark.parametrize("real", REAL)
def test_the_power_of_a_product_without_clamps_is_the_one_with_them(real):
    """To the last bit, so that which of the two a tile takes changes nothing."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 64 * LANES)).astype(real) * 8
    x[:4], y[:4] = (0.0, np.nan, 1.0, -1.0), (3.0, 1.0, 1.0, 125.9)
    inside = ~(np.abs(x * y) >= NEAR)
    general, near = np.zeros_like(x), np.zeros_like(x)
    powers(x, y, general, near)
    assert inside.sum() > 100 and not inside.all()
    np.testing.assert_array_equal(near[inside], general[inside])
    np.testing.assert_allclose(near[inside], 2.0 ** (x * y)[inside], rtol=3e-7)


@njit
def narrow(x, opened, soft):
    for i in range(0, x.size, LANES):
        store(opened, i, sigmoid(load(x, i)))
        store(soft, i, softplus(load(x, i)))


@njit
def wide(x, opened, soft):
    for i in range(0, x.size, WIDE):
        store(opened, i, sigmoid(load_wide(x, i)))
        store(soft, i, softplus(load_wide(x, i)))


@pytest.mark.parametrize("real", REAL)
def test_several_registers_at_a_time_compute_the_same(real):
    x = np.linspace(-120, 120, 8 * WIDE).astype(real)
    x[3], x[-1], x[0] = np.nan, np.inf, -np.inf
    one, other = (np.zeros_like(x), np.zeros_like(x)), (np.zeros_like(x), np.zeros_like(x))
    narrow(x, *one)
    wide(x, *other)
    for found, again in zip(one, other, strict=True):
        np.testing.assert_array_equal(found, again)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(one[0], 1 / (1 + np.exp(-x.astype(float))), rtol=1e-5, atol=1e-30)


@njit
def reductions(x):
    zero = splat(x, 0.0)
    magnitude = maximum(load(x, 0), zero - load(x, 0))
    return total(load(x, 0)), greatest(load(x, 0)), greatest(magnitude), total(spread(x, 2))


@pytest.mark.parametrize("real", REAL)
def test_reductions(real):
    x = np.arange(LANES).astype(real)
    x[5] = -100
    assert reductions(x) == (x.sum(), LANES - 1, 100, 2 * LANES)


@njit
def arithmetic(x, y, results):
    a, b = load(x, 0), load(y, 0)
    values = a + b, a - b, a * b, a / b, a + 3, a - 0.5, a * 2.0, a / 3, 3 + a, 0.5 - a, 2.0 * a, 3 / a
    for i, value in enumerate(values):
        store(results, i * LANES, value)


@pytest.mark.parametrize("real", REAL)
def test_arithmetic_with_vectors_and_numbers(real):
    x, y = np.random.default_rng(0).normal(size=(2, LANES)).astype(real)
    x[0], x[1], y[2] = np.nan, np.inf, 0.0
    results = np.zeros((12, LANES), real)
    arithmetic(x, y, results.reshape(-1))
    three, half, two = real(3), real(0.5), real(2)
    with np.errstate(divide="ignore"):
        of_both = x + y, x - y, x * y, x / y
        of_one = x + three, x - half, x * two, x / three, three + x, half - x, two * x, three / x
    np.testing.assert_array_equal(results, [*of_both, *of_one])


@njit
def sums_of_different_widths(x):
    store(x, 0, load(x, 0) + load_wide(x, 0))


@njit
def sums_of_different_types(x, y):
    store(x, 0, load(x, 0) + load(y, 0))


def test_vectors_that_differ_are_not_added():
    x = np.zeros(WIDE, np.float32)
    with pytest.raises(TypingError):
        sums_of_different_widths(x)
    with pytest.raises(TypingError):
        sums_of_different_types(x, x.astype(np.float64))


@njit
def clear_and_copy(x, y):
    clear(x, LANES, 3 * LANES)
    clear(x, LANES, LANES)
    copy(x, y, 2 * LANES)


@pytest.mark.parametrize("real", REAL)
def test_runs_of_whole_vectors(real):
    x = np.arange(1, 4 * LANES + 1).astype(real)
    y, before = -x, x.copy()
    clear_and_copy(x, y)
    before[LANES : 3 * LANES] = 0
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(y[: 2 * LANES], x[: 2 * LANES])
    np.testing.assert_array_equal(y[2 * LANES :], -np.arange(2 * LANES + 1, 4 * LANES + 1))


@njit
def many_totals(x, sums):
    store(sums, 0, totals(x, LANES))


@pytest.mark.parametrize("real", REAL)
def test_totals_of_vectors_that_follow_each_other(real):
    x = np.random.default_rng(0).integers(-99, 99, (LANES + 1, LANES)).astype(real)
    x[0] = np.nan  # is not to be summed
    x[3, 1] = np.inf
    sums = np.zeros(LANES, real)
    many_totals(x.ravel(), sums)
    np.testing.assert_array_equal(sums, x[1:].sum(1))


OTHER_LANES = """
import sys
import llvmlite.binding
import numba

numba.njit(lambda: 1)()  # from now on numba compiles for what is there
host = llvmlite.binding.get_host_cpu_features
features = host()
llvmlite.binding.get_host_cpu_features = lambda: {"avx512f": not features.get("avx512f")}
from xyscannet.ops import simd
llvmlite.binding.get_host_cpu_features = host

assert simd.LANES == int(sys.argv[1]), simd.LANES
import pytest
failed = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *sys.argv[2:]])

# A constant among the arguments has a function compiled once more (xyscannet/ops/simd/inner.py).
import gc
from collections import Counter
from numba import types
for function in gc.get_objects():
    if type(function) is simd.OfKernels and function.__module__.startswith("xyscannet."):
        kinds = Counter(tuple(map(types.unliteral, arguments)) for arguments in function.overloads)
        if max(kinds.values(), default=0) > 1:
            print("compiled again:", function.__module__, function.__name__)
sys.exit(failed)
"""


# Small, or made for what they are given.
MADE_FOR_CONSTANTS = {
    "cpu_pixels filled",
    "depthwise.cpu_kernels _finish",
    "depthwise.cpu_tiles keep",
    "selective_scan.cpu_tiles _load_four",
    "selective_scan.cpu_tiles _store_four",
    "selective_scan.cpu_tiles prepare",
}


@pytest.mark.slow  # compiles the kernels once more
def test_kernels_on_vectors_of_the_other_width():
    """Sixteen lanes, as with AVX-512, on eight-lane machines, and the other way round. None is compiled in vain."""
    lanes = 8 if simd.LANES == 16 else 16
    some = [
        "test_depthwise.py::test_the_sum_over_neighbours[size4-channels-last-dtype0-depthwise_silu_gate]",
        "test_fused_layers.py::test_layer_norm[channels-last-24-dtype0]",
        "test_slice_scan.py::test_every_width_of_channels[24]",
        "test_conv1d.py::test_every_width_of_the_kernel[4]",
        "test_blocks.py::test_feed_forward[size2-2.7]",
        "test_blocks.py::test_state_space[size5-intra]",
        "test_simd.py::test_reductions",
        "test_simd.py::test_totals_of_vectors_that_follow_each_other",
        "test_simd.py::test_several_registers_at_a_time_compute_the_same",
    ]
    command = [
        sys.executable,
        "-c",
        OTHER_LANES,
        str(lanes),
        *(str(Path(__file__).parent / each) for each in some),
    ]
    quickly = {**os.environ, "NUMBA_OPT": "0"}  # compiled; what a lane computes is the same
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=quickly)
    assert done.returncode == 0 and "12 passed" in done.stdout, done.stdout[-3000:] + done.stderr[-2000:]
    again = re.findall(r"compiled again: xyscannet\.ops\.(.+)", done.stdout)
    assert set(again) <= MADE_FOR_CONSTANTS, "give large functions ZERO, ONE or a variable for a constant"


@pytest.mark.parametrize("decorate", [inner, inlined])
def test_what_only_kernels_call_refuses_python(decorate):
    @decorate
    def doubled(x):
        return 2 * x

    @njit
    def kernel(x):
        return doubled(x) + 1

    assert kernel(3) == 7
    with pytest.raises(TypeError, match="doubled can be called by compiled kernels only"):
        doubled(3)
