"""Exponentials and what is made of them."""

from __future__ import annotations

import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from xyscannet.ops.simd.inner import inner
from xyscannet.ops.simd.vector import I32, I64, MATH, constant, lanes_of, like_vector, maximum


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
    value = constant(x.type, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = builder.fadd(builder.fmul(value, x, flags=MATH), constant(x.type, coefficient), flags=MATH)
    return value


def _power_of_two(builder, shifted, fraction):
    """2**(n + fraction) where shifted = n + `_rounding`: the bits of n are the lowest."""
    single = shifted.type.element == ir.FloatType()
    integers = lanes_of(I32 if single else I64, shifted.type.count)
    power = _horner(builder, fraction, _EXP2_SINGLE if single else _EXP2_DOUBLE)
    exponent = builder.shl(builder.bitcast(shifted, integers), constant(integers, 23 if single else 52))
    return builder.bitcast(builder.add(builder.bitcast(power, integers), exponent), shifted.type)


def _rounding(kind):
    """A number that, added to a small one, leaves its nearest integer in the lowest bits."""
    return constant(kind, 1.5 * 2.0 ** (23 if kind.element == ir.FloatType() else 52))


@intrinsic
def exp2(typingctx, x):
    """2**x. Zero below the normal range, the largest finite value above it, NaN stays NaN."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        low, high = (-126.0, 127.99999) if x.scalar == types.float32 else (-1022.0, 1023.999999)
        magic, top = _rounding(kind), constant(kind, high)
        value = builder.select(builder.fcmp_ordered(">", args[0], top), top, args[0])
        shifted = builder.fadd(value, magic)
        fraction = builder.fsub(value, builder.fsub(shifted, magic))
        result = _power_of_two(builder, shifted, fraction)
        too_small = builder.fcmp_ordered("<", value, constant(kind, low))
        return builder.select(too_small, constant(kind, 0.0), result)

    return x(x), codegen


NEAR = 126.0


@intrinsic
def exp2_near(typingctx, x, y):
    """`exp2(x * y)`, to the last bit, for |x*y| < NEAR; anything beyond. NaN stays NaN."""

    def codegen(context, builder, signature, args):
        magic = _rounding(args[0].type)
        product = builder.fmul(*args)  # rounded by itself, as what `exp2` is given
        shifted = builder.fadd(product, magic)
        fraction = builder.fsub(product, builder.fsub(shifted, magic))
        return _power_of_two(builder, shifted, fraction)

    return x(x, y), codegen


@intrinsic
def _log1p_unit(typingctx, x):
    """log(1 + x) for 0 <= x <= 1, as 2 artanh(x / (2 + x))."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        s = builder.fdiv(args[0], builder.fadd(args[0], constant(kind, 2.0)))
        terms = 8 if x.scalar == types.float32 else 18
        series = _horner(builder, builder.fmul(s, s), [2.0 / (2 * k + 1) for k in range(terms)])
        return builder.fmul(s, series)

    return x(x), codegen


LOG2E = float(np.log2(np.e))


@inner
def sigmoid(x):
    return 1.0 / (exp2(x * -LOG2E) + 1.0)


@inner
def softplus(x):
    zero = like_vector(x, 0.0)
    positive = maximum(x, zero)
    magnitude = maximum(x, zero - x)
    return positive + _log1p_unit(exp2(magnitude * -LOG2E))


@intrinsic
def square_root(typingctx, x):
    def codegen(context, builder, signature, args):
        kind = args[0].type
        name = f"llvm.sqrt.v{kind.count}{'f32' if kind.element == ir.FloatType() else 'f64'}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name)
        return builder.call(function, [args[0]])

    return x(x), codegen
