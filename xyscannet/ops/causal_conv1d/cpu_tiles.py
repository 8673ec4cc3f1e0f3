"""A tile of the causal depth-wise convolution on vectors (Numba, nothing of torch)."""

from __future__ import annotations

from xyscannet.ops.simd import LANES, WIDE, inner, load, load_wide, sigmoid, store


@inner
def convolve(steps, width, taps, weight, bias, x, y):
    """y_t = bias + sum_j weight_j x_{t - taps + 1 + j}; x starts taps - 1 steps before y."""
    for e in range(0, width, LANES):
        for t in range(steps):
            value = load(bias, e)
            for j in range(taps):
                value = value + load(weight, j * width + e) * load(x, (t + j) * width + e)
            store(y, t * width + e, value)


@inner
def activate(y, size):
    """y <- silu(y), to the end of the four vectors that the last of `size` values is in."""
    for i in range(0, size, WIDE):
        value = load_wide(y, i)
        store(y, i, value * sigmoid(value))
