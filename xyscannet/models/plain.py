"""Whether modules do what their weights say, so that a kernel may compute several of them from their weights at once.

A module that was replaced or subclassed (an adapter, say), one with a hook and one that was given a bias does more: it
has to be called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn
from torch.nn.modules import module as _module

M = TypeVar("M", bound=nn.Module)

# Lists and `__dict__`, for which torch 2.6 compiles `in`; sets of functions and `vars()` it does not.
_FORWARDS: list[Callable] = [nn.Linear.forward, nn.Conv1d.forward]
_WITHOUT_BIAS: list[type[nn.Module]] = []


def plain(cls: type[M]) -> type[M]:
    """Class decorator: the forward of this class is known to the kernels."""
    _FORWARDS.append(cls.forward)
    return cls


def without_bias(cls: type[M]) -> type[M]:
    """`plain` for a convolution whose bias the kernels leave out."""
    _WITHOUT_BIAS.append(cls)
    return plain(cls)


def is_plain(*modules: nn.Module) -> bool:
    """Whether all these modules, and those in them, do what their weights say, and nobody watches them."""
    if _module._global_forward_hooks or _module._global_forward_pre_hooks:
        return False
    return all(does_what_its_weights_say(part) for module in modules for part in module.modules())


def does_what_its_weights_say(part: nn.Module) -> bool:
    """Of one module, whose weights may be parametrised."""
    if _is_more_than_its_class(part) or type(part).forward not in _FORWARDS:
        return False
    return not isinstance(part, tuple(_WITHOUT_BIAS)) or part.bias is None


def is_as_made(part: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether to call a module is to run the forward of `kind`, and no more; what is in it is not asked."""
    return isinstance(part, kind) and type(part).forward is kind.forward and not _is_more_than_its_class(part)


def _is_more_than_its_class(part: nn.Module) -> bool:
    """Whether somebody watches this one, in forwards or backwards, or has given it a forward of its own."""
    hooks = part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks
    return any(hooks) or "forward" in part.__dict__
