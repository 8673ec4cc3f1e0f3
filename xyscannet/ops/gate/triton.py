"""`silu(gate) * value` on the GPU: hands torch tensors to the Triton kernels. See `triton_kernels`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from xyscannet.ops.channels_last import rows
from xyscannet.ops.gate import triton_kernels as kernels
from xyscannet.ops.triton_pixels import WARPS, part_block, real_type, steps, tile, vector

ELEMENTS = 2048  # of a program's tile


def _run(kernel, *maps: Tensor) -> None:
    pixels, channels = maps[0].shape
    if not maps[0].numel():
        return
    block = part_block(channels)
    size = tile(block, ELEMENTS)
    with torch.cuda.device_of(maps[0]):
        kernel[(triton.cdiv(pixels, size),)](
            *(*maps, *steps(*maps), pixels, channels),
            TILE=size,
            BLOCK=block,
            VEC=vector(channels, *maps),
            REAL=real_type(*maps)[1],
            num_warps=WARPS,
        )


def forward(gate: Tensor, value: Tensor, out: Tensor) -> None:
    """Fill `out` (B, C, H, W), channels-last."""
    _run(kernels.gate_forward, *map(rows, (gate, value, out)))


def backward(gate: Tensor, value: Tensor, grad: Tensor, grads: tuple[Tensor, Tensor]) -> None:
    """Fill `grads`, the gradients of gate and value, both channels-last."""
    _run(kernels.gate_backward, *map(rows, (gate, value, grad, *grads)))
