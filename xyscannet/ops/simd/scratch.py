"""Runs of whole vectors in flat scratch arrays. Slices would do the same, but take long to compile."""

from __future__ import annotations

from xyscannet.ops.simd.inner import inner
from xyscannet.ops.simd.vector import LANES, load, splat, store


@inner
def clear(values, first, stop):
    """Zero to elements first .. stop - 1, by whole vectors."""
    zero = splat(values, 0.0)
    for i in range(first, stop, LANES):
        store(values, i, zero)


@inner
def copy(source, target, size):
    """The first `size` elements, by whole vectors."""
    for i in range(0, size, LANES):
        store(target, i, load(source, i))
