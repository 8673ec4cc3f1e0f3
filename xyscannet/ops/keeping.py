"""Weights as kernels take them, laid out once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

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
