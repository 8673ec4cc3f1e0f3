"""Faults of Triton's interpreter, worked around for the tests that interpret kernels; importing this is enough."""

from __future__ import annotations

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def _scalars_are_indices() -> None:
    """Triton 3.6 keeps scalars in arrays of one element, which NumPy 2.4 no longer takes for an index."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).item()))

    interpreter._patch_lang_tensor = patched


def _masks_are_boolean() -> None:
    """Triton 3.9 spreads a scalar condition as int32 and then refuses it in a mask."""
    builder = interpreter.InterpreterBuilder

    def boolean(access, position):
        def patched(self, *args):
            mask = args[position]
            mask.data = mask.data.astype(bool)
            return access(self, *args)

        return patched

    builder.create_masked_load = boolean(builder.create_masked_load, 1)
    builder.create_masked_store = boolean(builder.create_masked_store, 2)


def _products_of_bf16() -> None:
    """Triton 3.6 to 3.9 keep bf16 as uint16 and multiply matrices of these integers."""
    builder = interpreter.InterpreterBuilder
    dot = builder.create_dot

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        data = (handle.data.astype(np.uint32) << 16).view(np.float32)
        return interpreter.TensorHandle(data, tl.float32)

    builder.create_dot = lambda self, a, b, *rest: dot(self, widened(a), widened(b), *rest)


def _language_is_patched_once() -> None:
    """Triton 3.6 to 3.9 look through the whole language at every call of a function inside a kernel."""
    patch = interpreter._patch_lang
    active: set[str] = set()

    def once(function):
        names = {
            value.__name__ for value in function.__globals__.values() if value is tl or value is tl.core
        } - active
        if not names:
            return interpreter._LangPatchScope()
        scope = patch(function)
        restore = scope.restore

        def forget():
            restore()
            active.difference_update(names)

        scope.restore = forget
        active.update(names)
        return scope

    interpreter._patch_lang = once


def _types_and_shapes_are_made_once() -> None:
    """Triton 3.6 to 3.9 make the type of every intermediate block anew, and its shape once more for the block."""
    plain, empty = tl.block_type.__init__, tl.tuple([])
    types: dict[tuple, tuple] = {}

    def typed(self, element_ty, shape):
        key = id(element_ty), tuple(getattr(side, "value", side) for side in shape)
        if key not in types:
            plain(self, element_ty, shape)
            self.constants = tl.tuple([tl.constexpr(side) for side in self.shape])
            self.count = tl.constexpr(self.numel)
            types[key] = element_ty, dict(self.__dict__)  # the first so that it is not another's id later
        self.__dict__.update(types[key][1])

    def shaped(self, handle, type):
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.shape, self.numel = (type.constants, type.count) if type.is_block() else (empty, tl.constexpr(1))

    tl.block_type.__init__, tl.tensor.__init__ = typed, shaped


_language_is_patched_once()
_types_and_shapes_are_made_once()
_products_of_bf16()
_scalars_are_indices()
_masks_are_boolean()
