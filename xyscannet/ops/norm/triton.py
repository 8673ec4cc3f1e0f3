"""Layer normalisation of pixels on the GPU: hands torch tensors to the Triton kernels. See `triton_kernels`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from xyscannet.ops.channels_last import rows
from xyscannet.ops.norm import triton_kernels as kernels
from xyscannet.ops.triton_pixels import WARPS, real_type, steps, tile, vector, whole_block

PROGRAMS = 1024  # programs that share the tiles in the backward pass
ELEMENTS = 2048  # of a program's tile in the backward pass, which holds five such tiles


def _constants(eps: float, elements: int, *maps: Tensor) -> dict:
    channels = maps[0].shape[1]
    block = whole_block(channels)
    return {
        "TILE": tile(block, elements),
        "BLOCK": block,
        "VEC": vector(channels, *maps),
        "EPS": eps,
        "REAL": real_type(*maps)[1],
        "num_warps": WARPS,
    }


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor) -> None:
    """Fill `out` (B, C, H, W), channels-last."""
    if not x.numel():
        return
    maps = rows(x), rows(out)
    constants = _constants(eps, 2 * ELEMENTS, *maps)
    grid = (triton.cdiv(maps[0].shape[0], constants["TILE"]),)
    with torch.cuda.device_of(x):
        kernels.norm_forward[grid](
            *(maps[0], weight.contiguous(), bias.contiguous(), maps[1]),
            *(*steps(*maps), *maps[0].shape),
            **constants,
        )


def backward(
    x: Tensor, weight: Tensor, grad: Tensor, eps: float, grads: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Fill `grads`, the gradients of x (channels-last), weight and bias."""
    dx, dweight, dbias = grads
    if not x.numel():
        dweight.zero_()
        dbias.zero_()
        return
    maps = rows(x), rows(grad), rows(dx)
    pixels, channels = maps[0].shape
    constants = _constants(eps, ELEMENTS, *maps)
    programs = min(PROGRAMS, triton.cdiv(pixels, constants["TILE"]))
    sums = x.new_empty((programs, 2, channels), dtype=real_type(*maps)[0])
    with torch.cuda.device_of(x):
        kernels.norm_backward[(programs,)](
            *(maps[0], weight.contiguous(), *maps[1:], sums),
            *(*steps(*maps), pixels, channels),
            **constants,
        )
    total = sums.sum(0)  # the second stage, in a fixed order: (2, C)
    dweight.copy_(total[0])
    dbias.copy_(total[1])
