"""Lanes, and single elements, at plain addresses; elements are float32, bfloat16 or float64 by a code."""

from __future__ import annotations

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from xyscannet.ops.simd.vector import I16, I32, LANES, Vector, broadcast, constant, lanes_of, real_of

F32, BF16, F64 = 0, 1, 2
ITEM_SIZE = np.array([4, 2, 8])


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line of an address; never faults."""

    def codegen(context, builder, signature, args):
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        flags = [ir.Constant(I32, value) for value in (0, 3, 1)]  # to read, keep close, data
        builder.call(function, [builder.inttoptr(args[0], pointer), *flags])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


def _pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def _lane_mask(builder, count):
    numbers = ir.Constant(lanes_of(I32), list(range(LANES)))
    return builder.icmp_signed("<", numbers, broadcast(builder, builder.trunc(count, I32)))


def _memory_kind(code):
    return {F32: ir.FloatType(), BF16: I16, F64: ir.DoubleType()}[code]


def _suffix(kind):
    return {"float": "f32", "double": "f64", "i16": "i16"}[str(kind)]


def _widen(builder, value, code, target):
    """Memory lanes (or one element) to the real type of the computation."""
    if code == BF16:
        vector = isinstance(value.type, ir.VectorType)
        wide = lanes_of(I32) if vector else I32
        shifted = builder.shl(builder.zext(value, wide), constant(wide, 16))
        value = builder.bitcast(shifted, lanes_of(ir.FloatType()) if vector else ir.FloatType())
    return _convert(builder, value, target)


def _convert(builder, value, target):
    single = "float" in str(value.type)
    if ("float" in str(target)) == single:
        return value
    return builder.fpext(value, target) if single else builder.fptrunc(value, target)


def _narrow(builder, value, code):
    """The real type of the computation to memory lanes; bfloat16 rounds to nearest even and keeps NaN."""
    vector = isinstance(value.type, ir.VectorType)
    if code == F64:
        return _convert(builder, value, lanes_of(ir.DoubleType()) if vector else ir.DoubleType())
    value = _convert(builder, value, lanes_of(ir.FloatType()) if vector else ir.FloatType())
    if code == F32:
        return value
    wide, narrow = (lanes_of(I32), lanes_of(I16)) if vector else (I32, I16)
    bits = builder.bitcast(value, wide)
    sixteen = constant(wide, 16)
    odd = builder.and_(builder.lshr(bits, sixteen), constant(wide, 1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, constant(wide, 0x7FFF))), sixteen)
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(is_nan, constant(wide, 0x7FC0), rounded), narrow)


def _memory_access(code):
    @intrinsic
    def read(typingctx, like, address):
        def codegen(context, builder, signature, args):
            kind = lanes_of(_memory_kind(code))
            value = builder.load(_pointer(builder, args[1], kind), align=2)
            return _widen(builder, value, code, lanes_of(real_of(like.dtype)))

        return Vector(like.dtype)(like, types.int64), codegen

    @intrinsic
    def read_some(typingctx, like, address, count):
        def codegen(context, builder, signature, args):
            element = _memory_kind(code)
            kind = lanes_of(element)
            name = f"llvm.masked.load.v{LANES}{_suffix(element)}.p0"
            mask = _lane_mask(builder, args[2])
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind, [kind.as_pointer(), I32, mask.type, kind]), name
            )
            zero = ir.Constant(kind, None)
            pointer = _pointer(builder, args[1], kind)
            value = builder.call(function, [pointer, ir.Constant(I32, 2), mask, zero])
            return _widen(builder, value, code, lanes_of(real_of(like.dtype)))

        return Vector(like.dtype)(like, types.int64, types.int64), codegen

    @intrinsic
    def write(typingctx, address, value):
        def codegen(context, builder, signature, args):
            narrow = _narrow(builder, args[1], code)
            builder.store(narrow, _pointer(builder, args[0], narrow.type), align=2)
            return context.get_dummy_value()

        return types.void(types.int64, value), codegen

    @intrinsic
    def write_some(typingctx, address, value, count):
        def codegen(context, builder, signature, args):
            narrow = _narrow(builder, args[1], code)
            kind = narrow.type
            name = f"llvm.masked.store.v{LANES}{_suffix(kind.element)}.p0"
            mask = _lane_mask(builder, args[2])
            function = cgutils.get_or_insert_function(
                builder.module,
                ir.FunctionType(ir.VoidType(), [kind, kind.as_pointer(), I32, mask.type]),
                name,
            )
            builder.call(function, [narrow, _pointer(builder, args[0], kind), ir.Constant(I32, 2), mask])
            return context.get_dummy_value()

        return types.void(types.int64, value, types.int64), codegen

    @intrinsic
    def read_one(typingctx, like, address):
        def codegen(context, builder, signature, args):
            value = builder.load(_pointer(builder, args[1], _memory_kind(code)))
            return _widen(builder, value, code, real_of(like.dtype))

        return like.dtype(like, types.int64), codegen

    @intrinsic
    def write_one(typingctx, address, value):
        def codegen(context, builder, signature, args):
            narrow = _narrow(builder, args[1], code)
            builder.store(narrow, _pointer(builder, args[0], narrow.type))
            return context.get_dummy_value()

        return types.void(types.int64, value), codegen

    return read, read_some, write, write_some, read_one, write_one


_read_f32, _read_some_f32, _write_f32, _write_some_f32, _read_one_f32, _write_one_f32 = _memory_access(F32)
_read_bf16, _read_some_bf16, _write_bf16, _write_some_bf16, _read_one_bf16, _write_one_bf16 = _memory_access(
    BF16
)
_read_f64, _read_some_f64, _write_f64, _write_some_f64, _read_one_f64, _write_one_f64 = _memory_access(F64)


def read_lanes(like, code, address, count):
    """min(count, LANES) elements at an address, zero on the other lanes."""


def write_lanes(code, address, value, count):
    """Write min(count, LANES) lanes to an address."""


def read_one(like, code, address):
    """The element at an address."""


def write_one(code, address, value):
    """Write one element to an address."""


@overload(read_lanes)
def _read_lanes(like, code, address, count):
    if like.dtype == types.float64:
        return lambda like, code, address, count: (
            _read_f64(like, address) if count >= LANES else _read_some_f64(like, address, count)
        )

    def single(like, code, address, count):
        if code == F32:
            return _read_f32(like, address) if count >= LANES else _read_some_f32(like, address, count)
        return _read_bf16(like, address) if count >= LANES else _read_some_bf16(like, address, count)

    return single


@overload(write_lanes)
def _write_lanes(code, address, value, count):
    if value.scalar == types.float64:

        def double(code, address, value, count):
            if count >= LANES:
                _write_f64(address, value)
            else:
                _write_some_f64(address, value, count)

        return double

    def single(code, address, value, count):
        if code == F32:
            if count >= LANES:
                _write_f32(address, value)
            else:
                _write_some_f32(address, value, count)
        elif count >= LANES:
            _write_bf16(address, value)
        else:
            _write_some_bf16(address, value, count)

    return single


@overload(read_one)
def _read_one(like, code, address):
    if like.dtype == types.float64:
        return lambda like, code, address: _read_one_f64(like, address)
    return lambda like, code, address: (
        _read_one_f32(like, address) if code == F32 else _read_one_bf16(like, address)
    )


@overload(write_one)
def _write_one(code, address, value):
    if value == types.float64:
        return lambda code, address, value: _write_one_f64(address, value)

    def single(code, address, value):
        if code == F32:
            _write_one_f32(address, value)
        else:
            _write_one_bf16(address, value)

    return single
