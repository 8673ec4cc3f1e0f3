"""The vector type: its memory in scratch arrays, its arithmetic, and reductions over the lanes."""

from __future__ import annotations

import operator

import llvmlite.binding
import llvmlite.ir as ir
from numba import types
from numba.core.datamodel import PrimitiveModel
from numba.core.typing import signature
from numba.extending import intrinsic, lower_builtin, register_model, type_callable

# On AVX2, normalising 24 channels takes half as long on 8 lanes as on 16, which they do not fill.
LANES = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8
I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
MATH = ("contract",)


class Vector(types.Type):
    """Values of one real type, `LANES` if nothing else is said."""

    def __init__(self, scalar: types.Float, lanes: int | None = None):
        self.scalar, self.lanes = scalar, lanes or LANES
        super().__init__(name=f"Vector({scalar}, {self.lanes})")


@register_model(Vector)
class _VectorModel(PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, lanes_of(real_of(kind.scalar), kind.lanes))


def real_of(scalar):
    return ir.FloatType() if scalar == types.float32 else ir.DoubleType()


def lanes_of(element, count=None):
    return ir.VectorType(element, count or LANES)


def constant(kind, value):
    if isinstance(kind, ir.VectorType):
        return ir.Constant(kind, [value] * kind.count)
    return ir.Constant(kind, value)


def broadcast(builder, scalar, count=None):
    kind = lanes_of(scalar.type, count)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
    everywhere = ir.Constant(lanes_of(I32, kind.count), [0] * kind.count)
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
            kind = lanes_of(real_of(array.dtype), vector.lanes)
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
            return broadcast(builder, context.cast(builder, args[1], value, like.dtype), vector.lanes)

        return vector(like, value), codegen

    return splat


splat, splat_wide = _splatting(1), _splatting(4)


@intrinsic
def spread(typingctx, array, index):
    """One element of a flat scratch array on every lane."""

    def codegen(context, builder, signature, args):
        kind = real_of(array.dtype)
        return broadcast(builder, builder.load(_element(context, builder, array, args[0], args[1], kind)))

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
                        ir.Constant(ir.VectorType(I32, width), list(range(first, first + width))),
                    )
                    for first in (0, width)
                ]
                value = combine(builder, *halves)
            return builder.extract_element(value, ir.Constant(I32, 0))

        return vector.scalar(vector), codegen

    return reduction


def _greater(builder, left, right):
    """The greater of two vectors; NaN on the left stays."""
    return builder.select(builder.fcmp_ordered("<", left, right), right, left)


total = _reduction(lambda builder, left, right: builder.fadd(left, right))
greatest = _reduction(_greater)


def _sum_neighbours(builder, left, right, unit, within):
    """Sums of neighbouring units of lanes, first those of `left`, then of `right`, in each run of `within` lanes."""
    places = []
    for run in range(0, LANES, within):
        both = [first + run + i for first in (0, LANES) for i in range(within)]
        places += [both[i : i + unit] for i in range(0, len(both), unit)]
    even, odd = (
        builder.shuffle_vector(
            left, right, ir.Constant(lanes_of(I32), [lane for unit in places[side::2] for lane in unit])
        )
        for side in (0, 1)
    )
    return builder.fadd(even, odd)


@intrinsic
def totals(typingctx, array, index):
    """The totals of `LANES` vectors that follow each other in a flat scratch array, the first one's on the first lane.

    Each halving of their number sums neighbours: lanes of the same 128 bits as long as there are any, as processors
    do cheaply, then such groups.
    """
    vector = Vector(array.dtype)

    def codegen(context, builder, signature, args):
        kind = lanes_of(real_of(array.dtype))
        start = builder.bitcast(
            _element(context, builder, array, args[0], args[1], kind), real_of(array.dtype).as_pointer()
        )
        vectors = []
        for i in range(LANES):
            place = builder.gep(start, [ir.Constant(I64, i * LANES)])
            vectors.append(builder.load(builder.bitcast(place, kind.as_pointer()), align=4))
        unit, within = 1, 4
        while len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [_sum_neighbours(builder, left, right, unit, within) for left, right in pairs]
            if unit == 1 and len(vectors) == LANES // 4:
                unit, within = 4, LANES
        return vectors[0]

    return vector(array, types.intp), codegen


@intrinsic
def like_vector(typingctx, vector, value):
    def codegen(context, builder, signature, args):
        return broadcast(builder, context.cast(builder, args[1], value, vector.scalar), vector.lanes)

    return vector(vector, value), codegen


def _define(symbol, name):
    """An operator of two vectors, or of a vector and a number; as one instruction, which no call stands around."""

    @type_callable(symbol)
    def typed(context):
        def of(left, right):
            if isinstance(left, Vector):
                if left == right:
                    return signature(left, left, left)
                if isinstance(right, types.Number):
                    return signature(left, left, left.scalar)
            elif isinstance(right, Vector) and isinstance(left, types.Number):
                return signature(right, right.scalar, right)
            return None

        return of

    def instruction(context, builder, sig, args):
        lanes = sig.return_type.lanes
        vectors = (
            value if isinstance(kind, Vector) else broadcast(builder, value, lanes)
            for kind, value in zip(sig.args, args)
        )
        return getattr(builder, name)(*vectors, flags=MATH)

    for left, right in ((Vector, Vector), (Vector, types.Float), (types.Float, Vector)):
        lower_builtin(symbol, left, right)(instruction)


for _symbol, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_symbol, _name)


@intrinsic
def maximum(typingctx, left, right):
    """The greater of two vectors; NaN on the left stays."""

    def codegen(context, builder, signature, args):
        return _greater(builder, *args)

    return left(left, right), codegen
