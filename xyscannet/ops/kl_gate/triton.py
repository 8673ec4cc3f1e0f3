"""The gated sum on the GPU: hands torch tensors to the Triton kernels. See `triton_kernels`."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from xyscannet.ops.channels_last import rows
from xyscannet.ops.kl_gate import triton_kernels as kernels
from xyscannet.ops.triton_pixels import WARPS, part_block, real_type, steps, tile, vector

PROGRAMS = 512  # programs that share the tiles of an image where its sums are taken
ELEMENTS = 1024  # of a program's tile


def _launch(kernel, maps: tuple[Tensor, ...], more: tuple, programs: int | None = None, **constants) -> None:
    """Run a kernel on `maps`, which begin with current (or its gradient), first and second."""
    batch, channels, height, width = maps[0].shape
    block = part_block(channels)
    size = tile(block, ELEMENTS)
    tiles = triton.cdiv(height * width, size) * triton.cdiv(channels, block)
    factors = (step for x in maps[1:3] for step in (height // x.shape[2], width // x.shape[3]))
    lines = [rows(x) for x in maps]
    with torch.cuda.device_of(maps[0]):
        kernel[(tiles * batch,) if programs is None else (min(programs, tiles), batch)](
            *lines,
            *more,
            *steps(*lines),
            *(channels, height, width, tiles, *factors),
            **constants,
            TILE=size,
            BLOCK=block,
            VEC=vector(channels, *lines),
            REAL=real_type(maps[0])[1],
            num_warps=WARPS,
        )


def _image_sums(maps: tuple[Tensor, Tensor, Tensor], divergence: bool) -> Tensor:
    """(B, 2): each program's sum first, then those of an image, in a fixed order."""
    batch, channels, height, width = maps[0].shape
    block = part_block(channels)
    tiles = triton.cdiv(height * width, tile(block, ELEMENTS)) * triton.cdiv(channels, block)
    found = maps[0].new_empty((batch, min(PROGRAMS, tiles), 2), dtype=real_type(maps[0])[0])
    _launch(kernels.sums, maps, (found,), PROGRAMS, DIVERGENCE=divergence)
    return found.sum(1)


def forward(current: Tensor, first: Tensor, second: Tensor, out: Tensor, gates: Tensor | None) -> None:
    """Fill `out` (B, C, H, W) and, where gates are means over images, `gates` (B, 2)."""
    if not current.numel():
        return
    if gates is not None:
        means = _image_sums((current, first, second), True) / current[0].numel()
        gates.copy_(torch.sigmoid(means))
    _launch(kernels.forward, (current, first, second, out), (gates,), MEAN=gates is not None)


def backward(
    grad: Tensor,
    current: Tensor,
    first: Tensor,
    second: Tensor,
    gates: Tensor | None,
    grads: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Fill `grads`, the gradients of current, first and second at the size of current."""
    if not current.numel():
        return
    pull = None
    if gates is not None:
        slope = gates * (1 - gates) / current[0].numel()
        pull = _image_sums((grad, first, second), False) * slope
    maps = (current, first, second, grad, *grads)
    _launch(kernels.backward, maps, (gates, pull), MEAN=gates is not None)
