"""What the operators ask of their arguments, and take them as."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def expect_alike(*, optional: Mapping[str, Tensor | None], **tensors: Tensor) -> None:
    """Real floating-point tensors on the device of the first one; those of `optional` may be None.

    Raises TypeError or ValueError.
    """
    first = next(iter(tensors))
    for name, x in {**tensors, **{name: x for name, x in optional.items() if x is not None}}.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} is {type(x).__name__}, not a tensor")
        if not x.is_floating_point():
            raise TypeError(f"{name} is {x.dtype}; real floating-point tensors are taken only")
        if x.device != tensors[first].device:
            raise ValueError(f"{name} is on {x.device}, {first} on {tensors[first].device}")


def real_type(x: Tensor) -> torch.dtype:
    """The type that is computed in: float64 for float64, float32 for everything else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def owned(x: Tensor) -> Tensor:
    """x, contiguous; a tensor of its own where gradients are asked for, since a view of an operator's result cannot be
    changed in place."""
    if torch.is_grad_enabled() and x.requires_grad:
        return x.clone(memory_format=torch.contiguous_format)
    return x.contiguous()
