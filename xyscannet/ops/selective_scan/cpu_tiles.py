"""A tile of the selective scan on vectors, forward and backward (Numba, nothing of torch).

Scratch arrays are flat, channels on the lanes: `steps` of `width` channels, states of `width` channels, and b and c
with `wide` values a step. Each state runs through a tile in a register.
"""

from __future__ import annotations

from xyscannet.ops.simd import (
    LANES,
    WIDE,
    exp2,
    exp2_near,
    greatest,
    inner,
    load,
    load_wide,
    maximum,
    softplus,
    splat,
    splat_wide,
    spread,
    store,
)


@inner
def prepare(steps, width, soft, has_bias, u, delta, bias, du):
    """delta <- softplus(delta + bias) where asked, du <- delta * u. Returns the greatest magnitude of delta."""
    if has_bias:
        for e in range(0, width, LANES):
            shift = load(bias, e)
            for i in range(e, steps * width, width):
                store(delta, i, load(delta, i) + shift)
    zero = splat_wide(delta, 0.0)
    reach = zero
    for i in range(0, steps * width, WIDE):  # to the end of the vector that the last step is in
        value = load_wide(delta, i)
        if soft:
            value = softplus(value)
        reach = maximum(reach, maximum(value, zero - value))
        store(delta, i, value)
        store(du, i, value * load_wide(u, i))
    return greatest(reach)


@inner
def magnitude(values, size):
    """The greatest magnitude of the first `size` values, NaN left out."""
    zero = splat(values, 0.0)
    reach = zero
    for i in range(0, size, LANES):
        reach = maximum(reach, maximum(load(values, i), zero - load(values, i)))
    return greatest(reach)


@inner
def _decay_anywhere(delta, decay):
    return exp2(delta * decay)


@inner
def _load_four(values, i, step):
    return load(values, i), load(values, i + step), load(values, i + 2 * step), load(values, i + 3 * step)


@inner
def _store_four(values, i, step, v0, v1, v2, v3):
    store(values, i, v0)
    store(values, i + step, v1)
    store(values, i + 2 * step, v2)
    store(values, i + 3 * step, v3)


@inner
def _weigh_four(weights, j, v0, v1, v2, v3):
    """The sum of four vectors, each times its weight of those from j on."""
    return (v0 * spread(weights, j) + v1 * spread(weights, j + 1)) + (
        v2 * spread(weights, j + 2) + v3 * spread(weights, j + 3)
    )


def _forward_tile(decay_of):
    """Run every state through a tile: h <- decay_of(delta, decay) h + du b, y <- y + c h. Four states at a time."""

    @inner
    def tile(steps, width, wide, states, decay, delta, du, b, c, y, h):
        for e in range(0, width, LANES):
            for n in range(0, states, 4):
                state = n * width + e
                a0, a1, a2, a3 = _load_four(decay, state, width)
                h0, h1, h2, h3 = _load_four(h, state, width)
                for t in range(steps):
                    i = t * width + e
                    j = t * wide + n
                    d = load(delta, i)
                    v = load(du, i)
                    h0 = decay_of(d, a0) * h0 + v * spread(b, j)
                    h1 = decay_of(d, a1) * h1 + v * spread(b, j + 1)
                    h2 = decay_of(d, a2) * h2 + v * spread(b, j + 2)
                    h3 = decay_of(d, a3) * h3 + v * spread(b, j + 3)
                    store(y, i, load(y, i) + _weigh_four(c, j, h0, h1, h2, h3))
                _store_four(h, state, width, h0, h1, h2, h3)

    return tile


forward_near, forward_anywhere = _forward_tile(exp2_near), _forward_tile(_decay_anywhere)


def _backward_tile(decay_of):
    """One tile of the backward scan, its states recomputed from those at its start (h). Four states at a time.

    sharp is `decay` as decay_of takes it. g is the gradient of the state after the tile, and of the state before it on
    return. y gathers the output, gdu, gdelta the gradients of du and delta, ga that of A, gb and gc (vectors, summed
    later) those of B and C. rate and before hold what each step decayed by and to.
    """

    @inner
    def tile(
        steps, width, wide, states, decay, sharp, delta, du, b, c, gy, y, h, g,
        before, rate, gdu, gdelta, ga, gb, gc,
    ):  # fmt: skip
        for e in range(0, width, LANES):
            for n in range(0, states, 4):
                state = n * width + e
                a0, a1, a2, a3 = _load_four(sharp, state, width)
                h0, h1, h2, h3 = _load_four(h, state, width)
                for t in range(steps):
                    i = t * width + e
                    j = t * wide + n
                    d, v, grad = load(delta, i), load(du, i), load(gy, i)
                    r0, r1, r2, r3 = decay_of(d, a0), decay_of(d, a1), decay_of(d, a2), decay_of(d, a3)
                    _store_four(rate, 4 * t * LANES, LANES, r0, r1, r2, r3)
                    r0, r1, r2, r3 = r0 * h0, r1 * h1, r2 * h2, r3 * h3
                    _store_four(before, 4 * t * LANES, LANES, r0, r1, r2, r3)
                    h0, h1 = r0 + v * spread(b, j), r1 + v * spread(b, j + 1)
                    h2, h3 = r2 + v * spread(b, j + 2), r3 + v * spread(b, j + 3)
                    store(y, i, load(y, i) + _weigh_four(c, j, h0, h1, h2, h3))
                    s0, s1, s2, s3 = _load_four(gc, j * LANES, LANES)
                    _store_four(
                        gc, j * LANES, LANES, s0 + grad * h0, s1 + grad * h1, s2 + grad * h2, s3 + grad * h3
                    )
                a0, a1, a2, a3 = _load_four(decay, state, width)
                h0, h1, h2, h3 = _load_four(g, state, width)
                q0, q1, q2, q3 = _load_four(ga, state, width)
                for t in range(steps - 1, -1, -1):
                    i = t * width + e
                    j = t * wide + n
                    d, v, grad = load(delta, i), load(du, i), load(gy, i)
                    h0, h1 = h0 + grad * spread(c, j), h1 + grad * spread(c, j + 1)
                    h2, h3 = h2 + grad * spread(c, j + 2), h3 + grad * spread(c, j + 3)
                    s0, s1, s2, s3 = _load_four(gb, j * LANES, LANES)
                    _store_four(gb, j * LANES, LANES, s0 + h0 * v, s1 + h1 * v, s2 + h2 * v, s3 + h3 * v)
                    store(gdu, i, load(gdu, i) + _weigh_four(b, j, h0, h1, h2, h3))
                    r0, r1, r2, r3 = _load_four(before, 4 * t * LANES, LANES)
                    r0, r1, r2, r3 = h0 * r0, h1 * r1, h2 * r2, h3 * r3
                    q0, q1, q2, q3 = q0 + r0 * d, q1 + r1 * d, q2 + r2 * d, q3 + r3 * d
                    store(gdelta, i, load(gdelta, i) + (r0 * a0 + r1 * a1) + (r2 * a2 + r3 * a3))
                    r0, r1, r2, r3 = _load_four(rate, 4 * t * LANES, LANES)
                    h0, h1, h2, h3 = h0 * r0, h1 * r1, h2 * r2, h3 * r3
                _store_four(g, state, width, h0, h1, h2, h3)
                _store_four(ga, state, width, q0, q1, q2, q3)

    return tile


backward_near, backward_anywhere = _backward_tile(exp2_near), _backward_tile(_decay_anywhere)
