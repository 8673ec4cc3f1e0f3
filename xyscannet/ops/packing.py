"""Weights as the CPU's kernels take them."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from xyscannet.ops.keeping import once
from xyscannet.ops.simd import LANES, pack

_KNOWN_TO_NUMPY = (torch.float32, torch.float64)


def whole_vectors(channels: int) -> int:
    return -(-channels // LANES) * LANES


def filled_up(values: Tensor, dim: int) -> Tensor:
    """`values` with zeros up to whole vectors along a dimension."""
    channels = values.shape[dim]
    shape = list(values.shape)
    shape[dim] = whole_vectors(channels) - channels
    return torch.cat([values, values.new_zeros(shape)], dim) if shape[dim] else values


def halves_of(weight: Tensor, which: tuple[int, ...]) -> list[Tensor]:
    """Halves of the weight's rows, flat."""
    halves = weight.detach().flatten(1).chunk(2)
    return [halves[half] for half in which]


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


def padded(parameter: Tensor, real: np.dtype) -> np.ndarray:
    """A parameter (..., C) in the kernels' type, contiguous, C filled up with zeros to whole vectors.

    Not to be written to: where nothing has to be changed it is the parameter's own memory.
    """
    parameter = parameter.detach()
    values = (parameter if parameter.dtype in _KNOWN_TO_NUMPY else parameter.float()).numpy()
    channels = values.shape[-1]
    width = whole_vectors(channels)
    if width == channels:
        return np.ascontiguousarray(values, real)
    wide = np.zeros((*values.shape[:-1], width), real)
    wide[..., :channels] = values
    return wide


@cache
def lanes_there(channels: int, real: np.dtype) -> np.ndarray:
    """1 for each channel, 0 for what `padded` fills the last vector up with."""
    return padded(torch.ones(channels), real)
