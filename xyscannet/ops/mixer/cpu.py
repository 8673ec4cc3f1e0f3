"""The middle of Mamba's mixer on the CPU: describes torch tensors to the compiled kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xyscannet.ops.mixer import cpu_kernels as kernels
from xyscannet.ops.packing import packed, padded
from xyscannet.ops.simd import LOG2E
from xyscannet.ops.threads import run_tasks

_GROUPS = 16
_REAL = np.dtype(np.float32)


def _walk(x: Tensor, branch: int, direction: str) -> tuple[int, int, int, int]:
    """Address of a branch of x (B, H, W, K, E), bytes from outer row to outer row, inner row to row, step to step."""
    image, down, across, between, _ = (stride * x.element_size() for stride in x.stride())
    start = x.data_ptr() + branch * between
    row, step, last = (
        (down, across, x.shape[2] - 1) if direction.endswith("x") else (across, down, x.shape[1] - 1)
    )
    if direction.startswith("-"):
        start, step = start + last * step, -step
    return start, image, row, step


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
    if xz.stride(4) != 1:
        xz = xz.contiguous()
    batch, height, width, _, channels = out.shape
    branches = []
    for k, direction in enumerate(directions):
        rows, steps = (height, width) if direction.endswith("x") else (width, height)
        branches.append((batch, rows, steps, *_walk(xz, k, direction), *_walk(out, k, direction)))
    groups = min(_GROUPS, batch * max(height, width))
    shape = (
        channels,
        conv_weight.shape[1],
        dt_weight.shape[1],
        A.shape[1],
        groups,
        channels * xz.element_size(),
    )
    decay = padded(A.t() * LOG2E, _REAL)
    vectors = padded(torch.stack([conv_bias, dt_bias, D]), _REAL)
    parameters = padded(conv_weight.t(), _REAL), packed(x_proj), packed(dt_weight), decay, vectors
    arguments = (np.array(branches, np.int64), shape, *parameters)
    run_tasks(kernels.mixer, arguments, groups * len(branches), 2 * out.numel() * A.shape[1])
