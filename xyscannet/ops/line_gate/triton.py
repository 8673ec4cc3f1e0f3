"""The gates of rows and columns on the GPU: hands torch tensors to the Triton kernels. See `triton_kernels`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from xyscannet.ops.channels_last import rows
from xyscannet.ops.line_gate import triton_kernels as kernels
from xyscannet.ops.triton_pixels import WARPS, part_block, real_type, tile, vector

ELEMENTS = 2048  # of a program's tile
LINES = 4  # columns that one program sums down the image
GROUP = 8  # of their pixels read at once


def forward(x: Tensor, down: Tensor, across: Tensor, out: Tensor) -> None:
    """Fill `out` (B, C, H, W): x through the gates."""
    if not out.numel():
        return
    _, channels, height, width = x.shape
    x, out = rows(x), rows(out)
    down, across = down.contiguous(), across.contiguous()
    block = part_block(channels)
    size = tile(block, ELEMENTS)
    with torch.cuda.device_of(x):
        kernels.gate[(triton.cdiv(x.shape[0], size),)](
            *(x, down, across, out, x.stride(0), out.stride(0), x.shape[0], channels, height, width),
            TILE=size,
            BLOCK=block,
            VEC=vector(channels, x, out),
            REAL=real_type(x)[1],
            num_warps=WARPS,
        )


def backward(
    grad: Tensor, x: Tensor, down: Tensor, across: Tensor, grads: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Fill `grads`, the gradients of x, down and across."""
    dx, d_down, d_across = grads
    if not x.numel():
        d_down.zero_(), d_across.zero_()
        return
    forward(grad, down, across, dx)  # the gates do not depend on x
    batch, channels, height, width = x.shape
    half = channels // 2
    block = part_block(half)
    for columns, gate, found in ((False, down, d_down), (True, across, d_across)):
        part, grad_part = (rows(m.chunk(2, dim=1)[columns]) for m in (x, grad))
        lines = batch * (triton.cdiv(width, LINES) if columns else height)
        with torch.cuda.device_of(x):
            kernels.sums[lines, triton.cdiv(half, block)](
                *(part, grad_part, gate.contiguous(), found, part.stride(0), grad_part.stride(0)),
                *(half, height, width),
                COLUMNS=columns,
                TILE=LINES if columns else tile(block, ELEMENTS // 2),
                GROUP=GROUP if columns else 1,
                BLOCK=block,
                VEC=vector(half, part, grad_part),
                REAL=real_type(x)[1],
                num_warps=1 if columns else WARPS,
            )
