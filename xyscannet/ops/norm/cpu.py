"""Layer normalisation of pixels on the CPU: compiled kernels, one pass forward and one backward.

Parameter gradients are summed in two stages over a fixed number of pixel groups, so they do not depend on the number
of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from xyscannet.ops.channels_last import describe, real_type, rows
from xyscannet.ops.compiling import compiled
from xyscannet.ops.packing import lanes_there, padded
from xyscannet.ops.simd import ITEM_SIZE, LANES, load, read_lanes, splat, store, total, write_lanes
from xyscannet.ops.threads import run_tasks

_GROUPS = 32


@njit(inline="always")
def _statistics(row, valid, channels, eps):
    """Mean and reciprocal deviation of `channels` values at the start of a flat array padded with zeros."""
    sums = load(row, 0)
    for e in range(LANES, channels, LANES):
        sums = sums + load(row, e)
    mean = total(sums) / channels
    centred = (load(row, 0) - mean) * load(valid, 0)
    squares = centred * centred
    for e in range(LANES, channels, LANES):
        centred = (load(row, e) - mean) * load(valid, e)
        squares = squares + centred * centred
    return mean, 1.0 / np.sqrt(total(squares) / channels + eps)


@compiled
def _forward(tensors, weight, bias, valid, eps, pixels, groups, first, last):
    """Tensors x, out as (address, code, bytes from pixel to pixel); weight, bias, valid padded to whole vectors."""
    (x, x_code, x_step), (out, out_code, out_step) = tensors
    x_size, out_size = ITEM_SIZE[x_code], ITEM_SIZE[out_code]
    channels = np.int64(valid.sum())
    row = np.zeros_like(weight)
    for p in range(first * pixels // groups, last * pixels // groups):
        for e in range(0, channels, LANES):
            store(row, e, read_lanes(row, x_code, x + p * x_step + e * x_size, channels - e))
        mean, scale = _statistics(row, valid, channels, eps)
        for e in range(0, channels, LANES):
            y = (load(row, e) - mean) * scale * load(weight, e) + load(bias, e)
            write_lanes(out_code, out + p * out_step + e * out_size, y, channels - e)


@compiled
def _backward(tensors, weight, valid, eps, pixels, groups, sums, first, last):
    """Tensors x, gradient of out, gradient of x; sums (groups, 2, width) gets the gradients of weight and bias."""
    (x, x_code, x_step), (grad, grad_code, grad_step), (dx, dx_code, dx_step) = tensors
    x_size, grad_size, dx_size = ITEM_SIZE[x_code], ITEM_SIZE[grad_code], ITEM_SIZE[dx_code]
    channels = np.int64(valid.sum())
    row, slope = np.zeros_like(weight), np.zeros_like(weight)
    for group in range(first, last):
        dweight, dbias = np.zeros_like(weight), np.zeros_like(weight)
        for p in range(group * pixels // groups, (group + 1) * pixels // groups):
            for e in range(0, channels, LANES):
                store(row, e, read_lanes(row, x_code, x + p * x_step + e * x_size, channels - e))
            mean, scale = _statistics(row, valid, channels, eps)
            along, level = splat(row, 0.0), splat(row, 0.0)
            for e in range(0, channels, LANES):
                d = read_lanes(row, grad_code, grad + p * grad_step + e * grad_size, channels - e)
                normal = (load(row, e) - mean) * scale
                store(dweight, e, load(dweight, e) + d * normal)
                store(dbias, e, load(dbias, e) + d)
                d = d * load(weight, e)
                level = level + d
                along = along + d * normal
                store(row, e, normal)
                store(slope, e, d)
            shift, stretch = total(level) / channels, total(along) / channels
            for e in range(0, channels, LANES):
                value = (load(slope, e) - shift - load(row, e) * stretch) * scale
                write_lanes(dx_code, dx + p * dx_step + e * dx_size, value, channels - e)
        for e in range(channels):
            sums[group, 0, e] = dweight[e]
            sums[group, 1, e] = dbias[e]


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> None:
    """Fill `out` (B, C, H, W), channels-last."""
    if not x.numel():
        return
    source, target, real = rows(x), rows(out), real_type(x)
    pixels, channels = source.shape
    groups = min(_GROUPS, pixels)
    parameters = padded(weight, real), padded(bias, real), lanes_there(channels, real)
    tensors = (describe(source), describe(target))
    run_tasks(_forward, (tensors, *parameters, eps, pixels, groups), groups, 8 * x.numel())


def backward(
    x: Tensor, weight: Tensor, grad: Tensor, eps: float, grads: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Fill `grads`, the gradients of x (channels-last), weight and bias."""
    dx, dweight, dbias = grads
    real, channels = real_type(x), x.shape[1]
    sums = np.zeros((_GROUPS, 2, channels), real)
    if x.numel():
        source, upper, lower = rows(x), rows(grad), rows(dx)
        pixels = source.shape[0]
        groups = min(_GROUPS, pixels)
        tensors = (describe(source), describe(upper), describe(lower))
        arguments = (tensors, padded(weight, real), lanes_there(channels, real), eps, pixels, groups, sums)
        run_tasks(_backward, arguments, groups, 16 * x.numel())
    total_weight, total_bias = torch.from_numpy(sums.sum(0))
    dweight.copy_(total_weight)
    dbias.copy_(total_bias)
