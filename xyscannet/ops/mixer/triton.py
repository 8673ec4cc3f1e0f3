"""The middle of Mamba's mixer on the GPU: hands torch tensors to the Triton kernels. See `triton_kernels`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from xyscannet.ops.mixer import triton_kernels as kernels
from xyscannet.ops.selective_scan.triton import BLOCK, GROUP
from xyscannet.ops.triton_walk import last_stride, launches, most, strides

TILES = {4: 16, 2: 32}  # steps of a tile that is convolved and projected, by bytes of an element
WIDE = {4: 16, 2: 32}  # channels of it at a time


def forward(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    directions: Sequence[str],
    out: Tensor,
) -> None:
    """Fill `out` (B, H, W, K, E)."""
    if not out.numel():
        return
    batch, height, width, _, channels = out.shape
    states, outputs = A.shape[1], x_proj.shape[0]
    tile = TILES[xz.element_size()]
    dbc = xz.new_empty((*xz.shape[:4], outputs))
    taps = F.pad(conv_weight.float(), (4 - conv_weight.shape[1], 0)).contiguous()
    bias, dt_weight, dt_bias, D = (x.float().contiguous() for x in (conv_bias, dt_weight, dt_bias, D))
    matrix, rates = x_proj.to(xz.dtype).contiguous(), A.float().t().contiguous()
    for first, count, vertical, reverse in launches(directions):
        x_k, z_k = xz[:, :, :, first : first + count].chunk(2, dim=-1)
        dbc_k, out_k = (image[:, :, :, first : first + count] for image in (dbc, out))
        ways = directions[first : first + count]
        tiles = most(height * triton.cdiv(width, tile), width * triton.cdiv(height, tile), ways)
        sizes = (batch, height, width, channels, vertical, reverse)
        with torch.cuda.device_of(xz):
            kernels.convolve_and_project[batch * tiles, 1, count](
                *(x_k, taps, bias, matrix, dbc_k, *strides(x_k), *strides(dbc_k)),
                *(last_stride(x_k), last_stride(dbc_k), *sizes, outputs),
                TAPS=4,
                TILE=tile,
                BLOCK=WIDE[xz.element_size()],
                OUT=max(16, triton.next_power_of_2(outputs)),
                PRECISION="ieee" if xz.dtype == torch.float32 else None,
                num_warps=4,
            )
            kernels.walk[batch * most(height, width, ways), triton.cdiv(channels, BLOCK), count](
                *(x_k, z_k, dbc_k, taps, bias, dt_weight, dt_bias, rates, D, out_k),
                *(*strides(x_k), *strides(dbc_k), *strides(out_k), *map(last_stride, (x_k, dbc_k, out_k))),
                *sizes,
                RANK=dt_weight.shape[1],
                N=states,
                NP=triton.next_power_of_2(states),
                BLOCK=BLOCK,
                GROUP=GROUP,
                TERMS=8,
                num_warps=1,
            )
