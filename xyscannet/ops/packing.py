"""Weights as the CPU's products of matrices take them, laid out once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from xyscannet.ops.simd import LANES, pack

_laid_out: WeakIdKeyDictionary = WeakIdKeyDictionary()


def once(weight: Tensor, how: tuple, make: Callable[[], Any]) -> Any:
    """What `make` lays out of a frozen weight, kept as long as the weight is there and is not written to.

    Others are laid out anew every time: who trains a weight may write to it past torch's count of changes.
    """
    if weight.requires_grad or weight.is_inference():  # the latter has no count
        return make()
    version, forms = _laid_out.get(weight, (None, {}))
    if version != (weight._version, weight.data_ptr()):
        version, forms = (weight._version, weight.data_ptr()), {}
        _laid_out[weight] = version, forms
    if how not in forms:
        forms[how] = make()
    return forms[how]


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
        return pack(torch.cat([filled_up(part, 0) for part in parts_of(weight, parts, count)]).numpy())

    return once(weight, ("packed", parts, count), make)
