"""The causal depth-wise convolution on the GPU: hands torch tensors to the Triton kernels. See `triton_kernels`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from xyscannet.ops.causal_conv1d import triton_kernels as kernels
from xyscannet.ops.triton_pixels import part_block
from xyscannet.ops.triton_walk import last_stride, launches, most, real_type, strides

TILE = 16  # steps of a program's tile
PROGRAMS = 1024  # programs that share the tiles of one branch and block of channels in the backward pass


def _tiles(shape: Sequence[int], directions: Sequence[str]) -> int:
    batch, height, width = shape[:3]
    return batch * most(height * triton.cdiv(width, TILE), width * triton.cdiv(height, TILE), directions)


def _constants(x: Tensor, weight: Tensor, silu: bool) -> dict:
    return {
        "TAPS": weight.shape[1],
        "TILE": TILE,
        "BLOCK": part_block(x.shape[4]),
        "SILU": silu,
        "REAL": real_type(x)[1],
        "num_warps": 4,
    }


def _branches(x: Tensor, first: int, count: int) -> Tensor:
    return x[:, :, :, first : first + count]


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, directions: Sequence[str], out: Tensor
) -> None:
    """Fill `out` (B, H, W, K, E)."""
    if not x.numel():
        return
    batch, height, width, _, channels = x.shape
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    for first, count, vertical, reverse in launches(directions):
        x_k, out_k = _branches(x, first, count), _branches(out, first, count)
        tiles = _tiles(x.shape, directions[first : first + count])
        grid = (tiles, triton.cdiv(channels, part_block(channels)), count)
        with torch.cuda.device_of(x):
            kernels.conv_forward[grid](
                *(x_k, weight, bias, out_k, *strides(x_k), *strides(out_k)),
                *(last_stride(x_k), last_stride(out_k)),
                *(batch, height, width, channels, vertical, reverse),
                **_constants(x, weight, silu),
            )


def backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    directions: Sequence[str],
    grads: tuple[Tensor, Tensor, Tensor | None],
) -> None:
    """Fill `grads`, the gradients of x, weight and bias."""
    dx, d_weight, d_bias = grads
    if not x.numel():
        d_weight.zero_()
        if d_bias is not None:
            d_bias.zero_()
        return
    batch, height, width, branches, channels = x.shape
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    taps = weight.shape[1]
    programs = min(PROGRAMS, _tiles(x.shape, directions))
    sums = x.new_empty((branches, programs, taps + 1, channels), dtype=real_type(x)[0])
    for first, count, vertical, reverse in launches(directions):
        x_k, dout_k, dx_k = (_branches(image, first, count) for image in (x, grad_out, dx))
        with torch.cuda.device_of(x):
            kernels.conv_backward[(programs, triton.cdiv(channels, part_block(channels)), count)](
                *(x_k, weight, bias, dout_k, dx_k, sums[first : first + count]),
                *(stride for image in (x_k, dout_k, dx_k) for stride in strides(image)),
                *map(last_stride, (x_k, dout_k, dx_k)),
                *(batch, height, width, channels, vertical, reverse),
                TAPS_PADDED=triton.next_power_of_2(taps),
                **_constants(x, weight, silu),
            )
    total = sums.sum((0, 1))  # the second stage, in a fixed order: (taps + 1, E)
    d_weight.copy_(total[:taps].t())
    if d_bias is not None:
        d_bias.copy_(total[taps])
