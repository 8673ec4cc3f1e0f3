"""A vector type for Numba kernels, with the few operations that the CPU kernels need.

Numba's automatic vectorisation gives up on loops over several arrays that may overlap. Here the lanes are written
down: a `Vector` is `LANES` float32 (or float64) values, as many float32 as a register of the machine holds. Memory is
reached through plain integer addresses, so a tensor of any strides and of float32, bfloat16 or float64 is read without
a copy. Arithmetic allows contraction (a*b+c as one FMA) and nothing else, so NaN and infinity behave.
"""

from __future__ import annotations

import operator

import llvmlite.binding
import llvmlite.ir as ir
import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.core.datamodel import PrimitiveModel
from numba.extending import intrinsic, overload, register_model

# On AVX2, normalising 24 channels takes half as long on 8 lanes as on 16, which they do not fill.
LANES = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8
F32, BF16, F64 = 0, 1, 2
ITEM_SIZE = np.array([4, 2, 8])
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_MATH = ("contract",)


class Vector(types.Type):
    """Values of one real type, `LANES` if nothing else is said."""

    def __init__(self, scalar: types.Float, lanes: int | None = None):
        self.scalar, self.lanes = scalar, lanes or LANES
        super().__init__(name=f"Vector({scalar}, {self.lanes})")


@register_model(Vector)
class _VectorModel(PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _lanes(_real(kind.scalar), kind.lanes))


def _real(scalar):
    return ir.FloatType() if scalar == types.float32 else ir.DoubleType()


def _lanes(element, count=None):
    return ir.VectorType(element, count or LANES)


def _constant(kind, value):
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [value] * kind.count)
    return ir.Constant(kind, value)


def _broadcast(builder, scalar, count=None):
    kind = _lanes(scalar.type, count)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_I32, 0))
    everywhere = ir.Constant(_lanes(_I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), everywhere)


def _element(context, builder, array_type, array, index, kind):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), kind.as_pointer())


def _loading(times):
    @intrinsic
    def load(typingctx, array, index):
        """Consecutive elements of a flat scratch array, one a lane."""
        vector = Vector(array.dtype, times * LANES)

        def codegen(context, builder, signature, args):
            kind = _lanes(_real(array.dtype), vector.lanes)
            return builder.load(_element(context, builder, array, args[0], args[1], kind), align=4)

        return vector(array, types.intp), codegen

    return load


# Long chains of operations on four registers at a time do not wait for one another.
load, load_wide, WIDE = _loading(1), _loading(4), 4 * LANES


@intrinsic
def store(typingctx, array, index, value):
    """Write the lanes to consecutive elements of a flat scratch array."""

    def codegen(context, builder, signature, args):
        builder.store(args[2], _element(context, builder, array, args[0], args[1], args[2].type), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


def _splatting(times):
    @intrinsic
    def splat(typingctx, like, value):
        """One value on every lane, in the real type of the scratch array `like`."""
        vector = Vector(like.dtype, times * LANES)

        def codegen(context, builder, signature, args):
            return _broadcast(builder, context.cast(builder, args[1], value, like.dtype), vector.lanes)

        return vector(like, value), codegen

    return splat


splat, splat_wide = _splatting(1), _splatting(4)


@intrinsic
def spread(typingctx, array, index):
    """One element of a flat scratch array on every lane."""

    def codegen(context, builder, signature, args):
        kind = _real(array.dtype)
        return _broadcast(builder, builder.load(_element(context, builder, array, args[0], args[1], kind)))

    return Vector(array.dtype)(array, types.intp), codegen


def _reduction(combine):
    """Over the lanes, pairwise."""

    @intrinsic
    def reduction(typingctx, vector):
        def codegen(context, builder, signature, args):
            value, width = args[0], vector.lanes
            while width > 1:
                width //= 2
                undefined = ir.Constant(value.type, ir.Undefined)
                halves = [
                    builder.shuffle_vector(
                        value,
                        undefined,
                        ir.Constant(ir.VectorType(_I32, width), list(range(first, first + width))),
                    )
                    for first in (0, width)
                ]
                value = combine(builder, *halves)
            return builder.extract_element(value, ir.Constant(_I32, 0))

        return vector.scalar(vector), codegen

    return reduction


def _greater(builder, left, right):
    """The greater of two vectors; NaN on the left stays."""
    return builder.select(builder.fcmp_ordered("<", left, right), right, left)


total = _reduction(lambda builder, left, right: builder.fadd(left, right))
greatest = _reduction(_greater)


def _binary(name):
    @intrinsic
    def operation(typingctx, left, right):
        def codegen(context, builder, signature, args):
            return getattr(builder, name)(args[0], args[1], flags=_MATH)

        return left(left, right), codegen

    return operation


_add, _sub, _mul, _div = _binary("fadd"), _binary("fsub"), _binary("fmul"), _binary("fdiv")


@intrinsic
def _like(typingctx, vector, value):
    def codegen(context, builder, signature, args):
        return _broadcast(builder, context.cast(builder, args[1], value, vector.scalar), vector.lanes)

    return vector(vector, value), codegen


def _overload_operator(symbol, function):
    @overload(symbol)
    def implementation(left, right):
        if isinstance(left, Vector) and isinstance(right, Vector):
            return lambda left, right: function(left, right)
        if isinstance(left, Vector) and isinstance(right, types.Number):
            return lambda left, right: function(left, _like(left, right))
        if isinstance(right, Vector) and isinstance(left, types.Number):
            return lambda left, right: function(_like(right, left), right)


for _symbol, _function in (
    (operator.add, _add),
    (operator.sub, _sub),
    (operator.mul, _mul),
    (operator.truediv, _div),
):
    _overload_operator(_symbol, _function)


def _chebyshev_exp2(degree):
    """Coefficients (lowest first) of a near-minimax polynomial for 2**f on [-1/2, 1/2], exact at 0."""
    nodes = np.cos(np.pi * (np.arange(64) + 0.5) / 64) / 2
    powers = nodes[:, None] ** np.arange(1, degree + 1)
    relative = 2.0**-nodes
    fitted = np.linalg.lstsq(powers * relative[:, None], (2.0**nodes - 1) * relative, rcond=None)[0]
    return [1.0, *fitted.tolist()]


_EXP2_SINGLE = _chebyshev_exp2(5)
_EXP2_DOUBLE = [float(np.log(2.0) ** k / np.prod(np.arange(1.0, k + 1))) for k in range(15)]


def _horner(builder, x, coefficients):
    value = _constant(x.type, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = builder.fadd(builder.fmul(value, x, flags=_MATH), _constant(x.type, coefficient), flags=_MATH)
    return value


def _power_of_two(builder, shifted, fraction):
    """2**(n + fraction) where shifted = n + `_rounding`: the bits of n are the lowest."""
    single = shifted.type.element == ir.FloatType()
    integers = _lanes(_I32 if single else _I64, shifted.type.count)
    power = _horner(builder, fraction, _EXP2_SINGLE if single else _EXP2_DOUBLE)
    exponent = builder.shl(builder.bitcast(shifted, integers), _constant(integers, 23 if single else 52))
    return builder.bitcast(builder.add(builder.bitcast(power, integers), exponent), shifted.type)


def _rounding(kind):
    """A number that, added to a small one, leaves its nearest integer in the lowest bits."""
    return _constant(kind, 1.5 * 2.0 ** (23 if kind.element == ir.FloatType() else 52))


@intrinsic
def exp2(typingctx, x):
    """2**x. Zero below the normal range, the largest finite value above it, NaN stays NaN."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        low, high = (-126.0, 127.99999) if x.scalar == types.float32 else (-1022.0, 1023.999999)
        magic, top = _rounding(kind), _constant(kind, high)
        value = builder.select(builder.fcmp_ordered(">", args[0], top), top, args[0])
        shifted = builder.fadd(value, magic)
        fraction = builder.fsub(value, builder.fsub(shifted, magic))
        result = _power_of_two(builder, shifted, fraction)
        too_small = builder.fcmp_ordered("<", value, _constant(kind, low))
        return builder.select(too_small, _constant(kind, 0.0), result)

    return x(x), codegen


NEAR = 126.0


@intrinsic
def exp2_near(typingctx, x, y):
    """2**(x*y) for |x*y| < NEAR; anything beyond. NaN stays NaN."""

    def codegen(context, builder, signature, args):
        magic = _rounding(args[0].type)
        product = builder.fmul(*args, flags=_MATH)
        shifted = builder.fadd(product, magic, flags=_MATH)
        fraction = builder.fsub(product, builder.fsub(shifted, magic), flags=_MATH)
        return _power_of_two(builder, shifted, fraction)

    return x(x, y), codegen


@intrinsic
def _log1p_unit(typingctx, x):
    """log(1 + x) for 0 <= x <= 1, as 2 artanh(x / (2 + x))."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        s = builder.fdiv(args[0], builder.fadd(args[0], _constant(kind, 2.0)))
        terms = 8 if x.scalar == types.float32 else 18
        series = _horner(builder, builder.fmul(s, s), [2.0 / (2 * k + 1) for k in range(terms)])
        return builder.fmul(s, series)

    return x(x), codegen


@intrinsic
def maximum(typingctx, left, right):
    """The greater of two vectors; NaN on the left stays."""

    def codegen(context, builder, signature, args):
        return _greater(builder, *args)

    return left(left, right), codegen


@intrinsic
def prefetch(typingctx, address):
    """Ask for the cache line of an address; never faults."""

    def codegen(context, builder, signature, args):
        pointer = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        flags = [ir.Constant(_I32, value) for value in (0, 3, 1)]  # to read, keep close, data
        builder.call(function, [builder.inttoptr(args[0], pointer), *flags])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


LOG2E = float(np.log2(np.e))


@njit(error_model="numpy")
def sigmoid(x):
    return 1.0 / (exp2(x * -LOG2E) + 1.0)


@njit(error_model="numpy")
def softplus(x):
    zero = _like(x, 0.0)
    positive = maximum(x, zero)
    magnitude = maximum(x, zero - x)
    return positive + _log1p_unit(exp2(magnitude * -LOG2E))


def _pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def _lane_mask(builder, count):
    numbers = ir.Constant(_lanes(_I32), list(range(LANES)))
    return builder.icmp_signed("<", numbers, _broadcast(builder, builder.trunc(count, _I32)))


def _memory_kind(code, real):
    return {F32: ir.FloatType(), BF16: _I16, F64: ir.DoubleType()}[code]


def _suffix(kind):
    return {"float": "f32", "double": "f64", "i16": "i16"}[str(kind)]


def _widen(builder, value, code, target):
    """Memory lanes (or one element) to the real type of the computation."""
    if code == BF16:
        vector = isinstance(value.type, ir.VectorType)
        wide = _lanes(_I32) if vector else _I32
        shifted = builder.shl(builder.zext(value, wide), _constant(wide, 16))
        value = builder.bitcast(shifted, _lanes(ir.FloatType()) if vector else ir.FloatType())
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
        return _convert(builder, value, _lanes(ir.DoubleType()) if vector else ir.DoubleType())
    value = _convert(builder, value, _lanes(ir.FloatType()) if vector else ir.FloatType())
    if code == F32:
        return value
    wide, narrow = (_lanes(_I32), _lanes(_I16)) if vector else (_I32, _I16)
    bits = builder.bitcast(value, wide)
    sixteen = _constant(wide, 16)
    odd = builder.and_(builder.lshr(bits, sixteen), _constant(wide, 1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, _constant(wide, 0x7FFF))), sixteen)
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.select(is_nan, _constant(wide, 0x7FC0), rounded), narrow)


def _memory_access(code):
    @intrinsic
    def read(typingctx, like, address):
        def codegen(context, builder, signature, args):
            kind = _lanes(_memory_kind(code, like.dtype))
            value = builder.load(_pointer(builder, args[1], kind), align=2)
            return _widen(builder, value, code, _lanes(_real(like.dtype)))

        return Vector(like.dtype)(like, types.int64), codegen

    @intrinsic
    def read_some(typingctx, like, address, count):
        def codegen(context, builder, signature, args):
            element = _memory_kind(code, like.dtype)
            kind = _lanes(element)
            name = f"llvm.masked.load.v{LANES}{_suffix(element)}.p0"
            mask = _lane_mask(builder, args[2])
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind, [kind.as_pointer(), _I32, mask.type, kind]), name
            )
            zero = ir.Constant(kind, None)
            pointer = _pointer(builder, args[1], kind)
            value = builder.call(function, [pointer, ir.Constant(_I32, 2), mask, zero])
            return _widen(builder, value, code, _lanes(_real(like.dtype)))

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
                ir.FunctionType(ir.VoidType(), [kind, kind.as_pointer(), _I32, mask.type]),
                name,
            )
            builder.call(function, [narrow, _pointer(builder, args[0], kind), ir.Constant(_I32, 2), mask])
            return context.get_dummy_value()

        return types.void(types.int64, value, types.int64), codegen

    @intrinsic
    def read_one(typingctx, like, address):
        def codegen(context, builder, signature, args):
            value = builder.load(_pointer(builder, args[1], _memory_kind(code, like.dtype)))
            return _widen(builder, value, code, _real(like.dtype))

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
