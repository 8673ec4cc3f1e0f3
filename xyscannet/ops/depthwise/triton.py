"""The depth-wise convolution on the GPU: hands torch tensors to the Triton kernels. See `triton_kernels`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from xyscannet.ops.channels_last import empty, rows
from xyscannet.ops.depthwise import triton_kernels as kernels
from xyscannet.ops.triton_pixels import WARPS, part_block, real_type, steps, vector

ROWS = 8  # of a program's tile
ELEMENTS = 512  # of a row of a tile
VEC = 4  # channels that a thread holds at most: their weights stay in registers
PROGRAMS = 1024  # programs that share the tiles of a block of channels in the backward pass


def _constants(channels: int, *maps: Tensor) -> dict:
    block = part_block(channels)
    return {
        "ROWS": ROWS,
        "COLUMNS": ELEMENTS // block,
        "BLOCK": block,
        "VEC": min(VEC, vector(channels, *maps)),
        "REAL": real_type(*maps)[1],
        "num_warps": WARPS,
    }


def _tiles(images: int, height: int, width: int, constants: dict) -> int:
    return images * triton.cdiv(height, constants["ROWS"]) * triton.cdiv(width, constants["COLUMNS"])


def _convolve(x: Tensor, weight: Tensor, gated: bool, grad: Tensor | None, out: Tensor) -> None:
    """Fill `out` with the convolution, gated or not, or with the gradient of the convolution where `grad` is given."""
    images, channels, height, width = x.shape
    second = other = grad_rows = None
    if gated:
        channels //= 2
        x, second = map(rows, x.chunk(2, dim=1))
    else:
        x = rows(x)
    if grad is not None:
        out, other = map(rows, out.chunk(2, dim=1))
        grad_rows = rows(grad)
    else:
        out = rows(out)
    given = [m for m in (x, second, grad_rows, out, other) if m is not None]
    constants = _constants(channels, *given)
    tiles = _tiles(images, height, width, constants)
    with torch.cuda.device_of(x):
        kernels.convolve[(tiles * triton.cdiv(channels, constants["BLOCK"]),)](
            *(x, second, weight, grad_rows, out, other),
            *(x.stride(0), 0 if grad is None else grad_rows.stride(0), out.stride(0)),
            *(images, channels, height, width),
            **constants,
        )


def forward(x: Tensor, weight: Tensor, gated: bool, out: Tensor) -> None:
    """Fill `out`, (B, C, H, W) or half the channels where gated."""
    if out.numel():
        _convolve(x, weight.reshape(-1, 9).contiguous(), gated, None, out)


def backward(grad: Tensor, x: Tensor, weight: Tensor, gated: bool, grads: tuple[Tensor, Tensor]) -> None:
    """Fill `grads`, the gradients of x and weight."""
    dx, d_weight = grads
    if not x.numel():
        d_weight.zero_()
        return
    taps = weight.reshape(-1, 9).contiguous()
    if gated:
        both = empty(x, x.shape[1])
        _convolve(x, taps, True, grad, both)
        grad = both
    images, channels, height, width = x.shape
    lines = [rows(m) for m in (x, grad, dx)]
    constants = _constants(channels, *lines)
    programs = min(PROGRAMS, _tiles(images, height, width, constants))
    sums = x.new_empty((programs, 9, channels), dtype=real_type(x)[0])
    with torch.cuda.device_of(x):
        kernels.backward[(programs, triton.cdiv(channels, constants["BLOCK"]))](
            *(lines[0], taps, lines[1], lines[2], sums),
            *steps(*lines),
            *(images, channels, height, width),
            **constants,
        )
    d_weight.copy_(sums.sum(0).t().reshape(d_weight.shape))
