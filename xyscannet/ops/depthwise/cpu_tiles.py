"""Three taps in a row for eight neighbouring pixels at once, on vectors (Numba, nothing of torch)."""

from __future__ import annotations

from xyscannet.ops.simd import LANES, inlined, load, read_lanes, store

RUN = 8  # pixels at once


@inlined
def add_taps(like, code, p, pixel, taps, k, width, sums):
    """Add to the sums of `RUN` pixels what a row of taps makes of the pixels from address p on, `pixel` bytes apart.

    p is the left neighbour of the first; the taps are vectors of a flat array, at k, k + width and k + 2 width. A tap
    and a pixel, once loaded, serve several sums.
    """
    a0, a1, a2, a3, a4, a5, a6, a7 = sums
    w0, w1, w2 = load(taps, k), load(taps, k + width), load(taps, k + 2 * width)
    v = read_lanes(like, code, p, LANES)
    a0 = a0 + w0 * v
    v = read_lanes(like, code, p + pixel, LANES)
    a0, a1 = a0 + w1 * v, a1 + w0 * v
    v = read_lanes(like, code, p + 2 * pixel, LANES)
    a0, a1, a2 = a0 + w2 * v, a1 + w1 * v, a2 + w0 * v
    v = read_lanes(like, code, p + 3 * pixel, LANES)
    a1, a2, a3 = a1 + w2 * v, a2 + w1 * v, a3 + w0 * v
    v = read_lanes(like, code, p + 4 * pixel, LANES)
    a2, a3, a4 = a2 + w2 * v, a3 + w1 * v, a4 + w0 * v
    v = read_lanes(like, code, p + 5 * pixel, LANES)
    a3, a4, a5 = a3 + w2 * v, a4 + w1 * v, a5 + w0 * v
    v = read_lanes(like, code, p + 6 * pixel, LANES)
    a4, a5, a6 = a4 + w2 * v, a5 + w1 * v, a6 + w0 * v
    v = read_lanes(like, code, p + 7 * pixel, LANES)
    a5, a6, a7 = a5 + w2 * v, a6 + w1 * v, a7 + w0 * v
    v = read_lanes(like, code, p + 8 * pixel, LANES)
    a6, a7 = a6 + w2 * v, a7 + w1 * v
    v = read_lanes(like, code, p + 9 * pixel, LANES)
    a7 = a7 + w2 * v
    return a0, a1, a2, a3, a4, a5, a6, a7


@inlined
def keep(out, at, step, sums):
    """Store the sums of `RUN` pixels in a flat array, from `at` on, `step` apart."""
    a0, a1, a2, a3, a4, a5, a6, a7 = sums
    store(out, at, a0)
    store(out, at + step, a1)
    store(out, at + 2 * step, a2)
    store(out, at + 3 * step, a3)
    store(out, at + 4 * step, a4)
    store(out, at + 5 * step, a5)
    store(out, at + 6 * step, a6)
    store(out, at + 7 * step, a7)
