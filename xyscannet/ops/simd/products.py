"""Products of matrices in scratch arrays: pixels times weights that are laid out for it."""

from __future__ import annotations

import numpy as np

from xyscannet.ops.simd.inner import inner
from xyscannet.ops.simd.vector import LANES, load, splat, spread, store

PIXELS = 6  # at once: with two vectors of results each, as many sums as AVX2 has registers for


def pack(weight: np.ndarray) -> np.ndarray:
    """weight (O, C) as `multiply` takes it, flat: its rows filled up to whole vectors, two of these at a time."""
    rows, columns = weight.shape
    vectors = -(-rows // LANES)
    wide = weight
    if rows % LANES:
        wide = np.zeros((vectors * LANES, columns), weight.dtype)
        wide[:rows] = weight
    pairs = vectors // 2 * 2 * LANES
    first = wide[:pairs].reshape(-1, 2 * LANES, columns).transpose(0, 2, 1)
    return np.concatenate([first.ravel(), wide[pairs:].T.ravel()])


@inner
def _two_vectors(x, at, step, columns, weight, w, y, to, width):
    """Six pixels of x from `at` on, `step` apart, times 2 x LANES rows of the weight -> y from `to` on."""
    a0 = splat(x, 0.0)
    a1 = a2 = a3 = a4 = a5 = b0 = b1 = b2 = b3 = b4 = b5 = a0
    for i in range(at, at + columns):
        a, b = load(weight, w), load(weight, w + LANES)
        w += 2 * LANES
        v = spread(x, i)
        a0, b0 = a0 + v * a, b0 + v * b
        v = spread(x, i + step)
        a1, b1 = a1 + v * a, b1 + v * b
        v = spread(x, i + 2 * step)
        a2, b2 = a2 + v * a, b2 + v * b
        v = spread(x, i + 3 * step)
        a3, b3 = a3 + v * a, b3 + v * b
        v = spread(x, i + 4 * step)
        a4, b4 = a4 + v * a, b4 + v * b
        v = spread(x, i + 5 * step)
        a5, b5 = a5 + v * a, b5 + v * b
    _store_six(y, to, width, a0, a1, a2, a3, a4, a5)
    _store_six(y, to + LANES, width, b0, b1, b2, b3, b4, b5)


@inner
def _one_vector(x, at, step, columns, weight, w, y, to, width):
    """The same for `LANES` rows of the weight."""
    a0 = splat(x, 0.0)
    a1 = a2 = a3 = a4 = a5 = a0
    for i in range(at, at + columns):
        a = load(weight, w)
        w += LANES
        a0 = a0 + spread(x, i) * a
        a1 = a1 + spread(x, i + step) * a
        a2 = a2 + spread(x, i + 2 * step) * a
        a3 = a3 + spread(x, i + 3 * step) * a
        a4 = a4 + spread(x, i + 4 * step) * a
        a5 = a5 + spread(x, i + 5 * step) * a
    _store_six(y, to, width, a0, a1, a2, a3, a4, a5)


@inner
def _store_six(y, to, width, a0, a1, a2, a3, a4, a5):
    store(y, to, a0)
    store(y, to + width, a1)
    store(y, to + 2 * width, a2)
    store(y, to + 3 * width, a3)
    store(y, to + 4 * width, a4)
    store(y, to + 5 * width, a5)


@inner
def multiply(x, at, step, pixels, columns, weight, rows, y, width):
    """y[p, o] = the sum over c of x[p, c] weight[o, c].

    x, from `at` on, has `columns` values a pixel, pixels `step` apart; the weight is packed, its rows filled up to
    whole vectors (`rows`); y has pixels `width` apart. Whole groups of `PIXELS` are read and written.
    """
    pairs = rows // (2 * LANES) * 2 * LANES
    for o in range(0, pairs, 2 * LANES):
        for p in range(0, pixels, PIXELS):
            _two_vectors(x, at + p * step, step, columns, weight, o * columns, y, p * width + o, width)
    if pairs < rows:
        for p in range(0, pixels, PIXELS):
            _one_vector(x, at + p * step, step, columns, weight, pairs * columns, y, p * width + pairs, width)
