"""The depth-wise convolution on the CPU: describes torch tensors to the compiled kernels.

The gradient of the weight is summed in two stages over a fixed number of groups of rows, so it does not depend on the
number of threads.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xyscannet.ops.channels_last import CODES, empty, real_type, together
from xyscannet.ops.depthwise import cpu_kernels as kernels
from xyscannet.ops.packing import padded
from xyscannet.ops.simd import LANES
from xyscannet.ops.threads import run_tasks

_TASKS = 32
_ABSENT = (0, 0, 0, 0)


def _describe(x: Tensor) -> tuple[int, int, int, int]:
    image, _, row, pixel = x.stride()
    size = x.element_size()
    return x.data_ptr(), image * size, row * size, pixel * size


def _taps(weight: Tensor, parts: int, real: np.dtype) -> np.ndarray:
    """weight (C, 1, 3, 3) as the kernels take it, flat."""
    return padded(weight.reshape(parts, -1, 9).transpose(1, 2), real).ravel()  # (parts, 9, C / parts)


def _convolve(x: Tensor, weight: Tensor, mode: int, out: Tensor, grad: Tensor | None = None) -> None:
    images, channels, height, width = x.shape
    tasks = min(_TASKS, images * height)
    shape = (images, height, width, channels, tasks)
    maps = (_describe(x), _describe(out), _ABSENT if grad is None else _describe(grad))
    taps = _taps(weight, 1 if mode == kernels.PLAIN else 2, real_type(x))
    run_tasks(kernels.CONVOLVE[CODES[x.dtype], mode], (*maps, shape, taps), tasks, 9 * x.numel())


def forward(x: Tensor, weight: Tensor, gated: bool, out: Tensor) -> None:
    """Fill `out`, (B, C, H, W) or half the channels where gated."""
    if out.numel():
        _convolve(together(x), weight, kernels.GATED if gated else kernels.PLAIN, out)


def backward(grad: Tensor, x: Tensor, weight: Tensor, gated: bool, grads: tuple[Tensor, Tensor]) -> None:
    """Fill `grads`, the gradients of x and weight."""
    dx, d_weight = grads
    if not x.numel():
        d_weight.zero_()
        return
    x, grad = together(x), together(grad)
    if gated:
        both = empty(x, x.shape[1])
        _convolve(x, weight, kernels.GRADIENT, both, grad)
        grad = both
    _convolve(grad, weight.flip(2, 3), kernels.PLAIN, dx)
    images, channels, height, width = x.shape
    tasks = min(_TASKS, images * height)
    sums = np.zeros((tasks, 9, -(-channels // LANES) * LANES), real_type(x))
    arguments = (_describe(x), _describe(grad), (images, height, width, channels, tasks), sums)
    run_tasks(kernels.WEIGHT_GRADIENT[CODES[x.dtype]], arguments, tasks, 9 * x.numel())
    total = torch.from_numpy(sums.sum(0)[:, :channels])  # (9, C)
    d_weight.copy_(total.t().reshape(d_weight.shape))
