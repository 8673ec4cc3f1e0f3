"""The gated sum on the CPU: describes torch tensors to the compiled kernels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xyscannet.ops.channels_last import describe, real_type, rows
from xyscannet.ops.kl_gate import cpu_kernels as kernels
from xyscannet.ops.threads import run_tasks

_TASKS = 32
_WORK = 8  # elementary updates an element


def _describe(x: Tensor, current: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """What the kernels see of a map, and the memory that has to outlive them."""
    pixels = rows(x)
    steps = (current.shape[2] // x.shape[2], current.shape[3] // x.shape[3])
    return (*describe(pixels), *steps), pixels


def _run(kernel, maps: tuple[Tensor, ...], *arguments) -> None:
    current = maps[0]
    batch, channels, height, width = current.shape
    tensors, _kept = zip(*(_describe(x, current) for x in maps), strict=True)
    tasks = min(_TASKS, batch * height)
    shape = (channels, height, width, batch * height, tasks)
    like = np.empty(0, real_type(current))
    run_tasks(kernel, (tensors, shape, *arguments, like), tasks, _WORK * current.numel())


def _image_sums(maps: tuple[Tensor, Tensor, Tensor], divergence: bool) -> Tensor:
    """(B, 2), float64: rows first, then the rows of each image, in a fixed order."""
    batch, _, height, _ = maps[0].shape
    found = np.zeros((batch * height, 2), real_type(maps[0]))
    _run(kernels.sums, maps, int(divergence), found)
    return torch.from_numpy(found).double().view(batch, height, 2).sum(1)


def forward(current: Tensor, first: Tensor, second: Tensor, out: Tensor, gates: Tensor | None) -> None:
    """Fill `out` (B, C, H, W) and, where gates are means over images, `gates` (B, 2)."""
    if not current.numel():
        return
    known = np.zeros((0, 2), real_type(current))
    if gates is not None:
        means = _image_sums((current, first, second), True) / current[0].numel()
        known = gates.copy_(torch.sigmoid(means)).numpy()
    _run(kernels.forward, (current, first, second, out), known)


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
    known = pull = np.zeros((0, 2), real_type(current))
    if gates is not None:
        known = gates.numpy()
        slope = gates.double() * (1 - gates.double()) / current[0].numel()
        pull = (_image_sums((grad, first, second), False) * slope).to(gates.dtype).numpy()
    _run(kernels.backward, (current, first, second, grad, *grads), known, pull)
