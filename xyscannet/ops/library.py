"""This package's operators in torch.library.

`torch.library.custom_op` does the same, but imports torch._dynamo and sympy at an operator's first call: 2 s of every
start of the command line.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch.autograd import forward_ad

_LIBRARY = torch.library.Library("xyscannet", "FRAGMENT")


@cache
def kernels(package: str, backend: str) -> ModuleType:
    """The module `xyscannet.ops.PACKAGE.BACKEND`, which runs that package's operators; imported at its first use."""
    return importlib.import_module(f"xyscannet.ops.{package}.{backend}")


class Operator:
    """The operator `xyscannet::NAME`: called by position, it runs a Python function, whatever the device.

    Args:
        name: what follows `xyscannet::`.
        function: what it does; it neither changes its arguments nor returns one of them.
        schema: its arguments and results in torch's notation; by default from the function's annotations.
    """

    def __init__(self, name: str, function: Callable[..., Any], schema: str | None = None) -> None:
        self.name, self.__doc__ = f"xyscannet::{name}", function.__doc__
        schema = schema or torch.library.infer_schema(function, mutates_args=())
        _LIBRARY.define(name + schema, tags=torch.Tag.pt2_compliant_tag)
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        self._overload = getattr(torch.ops.xyscannet, name).default
        self._backward: Callable[..., Any] = self._no_gradient
        self._setup: Callable[..., None] | None = None
        torch.library.register_autograd(
            self.name,
            lambda ctx, *grads: self._backward(ctx, *grads),
            setup_context=lambda ctx, inputs, output: self._setup and self._setup(ctx, inputs, output),
            lib=_LIBRARY,
        )

    def __call__(self, *arguments: Any) -> Any:
        if forward_ad._current_level >= 0 and any(map(_has_tangent, arguments)):
            raise NotImplementedError(
                f"{self.name} has no forward-mode derivative: use reverse mode, or "
                "xyscannet.ops.use_backend('reference')"
            )
        return self._overload(*arguments)

    def register_fake(self, fake: Callable[..., Any]) -> Callable[..., Any]:
        """Set what gives the results' shapes and types, for torch.compile. May decorate."""
        torch.library.register_fake(self.name, fake, lib=_LIBRARY)
        return fake

    def register_autograd(self, backward: Callable[..., Any], setup_context: Callable[..., None]) -> None:
        """Set the gradient; without one, asking for it is an error."""
        self._backward, self._setup = backward, setup_context

    def _no_gradient(self, ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{self.name} has no gradient")


def _has_tangent(argument: Any) -> bool:
    return isinstance(argument, torch.Tensor) and forward_ad.unpack_dual(argument).tangent is not None


def operator(name: str, schema: str | None = None) -> Callable[[Callable[..., Any]], Operator]:
    """Make the decorated function the operator `xyscannet::NAME`."""
    return lambda function: Operator(name, function, schema)
