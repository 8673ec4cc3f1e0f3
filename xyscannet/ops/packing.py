"""Weights as the CPU's products of matrices take them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xyscannet.ops.simd import LANES, pack

_kept: ContextVar[dict[tuple, tuple[Tensor, Any]] | None] = ContextVar("_kept", default=None)


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """While entered, weights are laid out once in this thread; nobody may write to them meanwhile.

    Otherwise every use lays them out anew: torch does not count all the ways of writing to a weight.
    """
    if _kept.get() is not None:
        yield
        return
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def once(weight: Tensor, how: tuple, make: Callable[[], Any]) -> Any:
    """What `make` lays out of a weight, as often as `kept` says."""
    forms = _kept.get()
    if forms is None or not isinstance(weight, nn.Parameter):  # others may be computed anew at each use
        return make()
    key = (id(weight), *how)
    if key not in forms:
        forms[key] = weight, make()  # with the weight, whose id nobody else gets then
    return forms[key][1]


def whole_vectors(channels: int) -> int:
    return -(-channels // LANES) * LANES


def filled_up(values: Tensor, dim: int) -> Tensor:
    """`values` with zeros up to whole vectors along a dimension."""
    channels = values.shape[dim]
    shape = list(values.shape)
    shape[dim] = whole_vectors(channels) - channels
    return torch.cat([values, values.new_zeros(shape)], dim) if shape[dim] else values


def parts_of(weight: Tensor, parts: tuple[int, ...], count: int = 2) -> list[Tensor]:
    """So many of `count` equal parts of the weight's rows, flat."""
    chunks = weight.detach().flatten(1).chunk(count)
    return [chunks[part] for part in parts]


def packed(weight: Tensor, parts: tuple[int, ...] = (0,), count: int = 1) -> np.ndarray:
    """Rows of (O, C) or (O, C, 1, 1) as `multiply` takes them, each part filled up to whole vectors."""

    def make() -> np.ndarray:
        rows = weight.detach().flatten(1).numpy()
        size = len(rows) // count
        wide = np.zeros((len(parts), whole_vectors(size), rows.shape[1]), rows.dtype)
        for place, part in enumerate(parts):
            wide[place, :size] = rows[part * size : (part + 1) * size]
        return pack(wide.reshape(-1, rows.shape[1]))

    return once(weight, ("packed", parts, count), make)
