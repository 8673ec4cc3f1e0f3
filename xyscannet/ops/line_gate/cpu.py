"""The gates of rows and columns on the CPU: one pass over the map forwards, plain torch backwards."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xyscannet.ops import arguments
from xyscannet.ops.channels_last import CODES, real_type, rows
from xyscannet.ops.compiling import compiled
from xyscannet.ops.packing import padded
from xyscannet.ops.simd import ITEM_SIZE, LANES, load, read_lanes, write_lanes
from xyscannet.ops.threads import run_tasks

_TASKS = 32


@compiled
def _gate(maps, code, shape, down, across, first_task, last_task):
    """maps = x, out: (address, bytes from pixel to pixel); shape = height, width of the image, channels, tasks.

    down (B, H, width) and across (B, W, width) are gates of all channels.
    """
    (x, x_step), (out, out_step) = maps
    height, columns, channels, tasks = shape
    size, lines = ITEM_SIZE[code], down.shape[0] * height
    for line in range(first_task * lines // tasks, last_task * lines // tasks):
        row, gates = down[line // height, line % height], across[line // height].reshape(-1)
        for column in range(columns):
            pixel, at = line * columns + column, column * down.shape[2]
            for e in range(0, channels, LANES):
                some = channels - e
                value = read_lanes(row, code, x + pixel * x_step + e * size, some)
                write_lanes(
                    code, out + pixel * out_step + e * size, value * load(row, e) * load(gates, at + e), some
                )


def opened(down: Tensor, across: Tensor, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The gates of x's rows (B, H, width) and columns (B, W, width), each over all channels, padded.

    One where they do not gate: a pixel is then a run of whole vectors.
    """
    down, across = (torch.sigmoid(gate.to(arguments.real_type(x))) for gate in (down, across))
    return (
        padded(torch.cat([down, torch.ones_like(down)], dim=2), real_type(x)),
        padded(torch.cat([torch.ones_like(across), across], dim=2), real_type(x)),
    )


def forward(x: Tensor, down: Tensor, across: Tensor, out: Tensor) -> None:
    """Fill `out` (B, C, H, W): x through the gates."""
    if not x.numel():
        return
    images, channels, height, columns = x.shape
    vertical, horizontal = opened(down, across, x)
    pixels, target = rows(x), rows(out)
    maps = tuple((m.data_ptr(), m.stride(0) * m.element_size()) for m in (pixels, target))
    tasks = min(_TASKS, images * height)
    shape = height, columns, channels, tasks
    run_tasks(_gate, (maps, CODES[pixels.dtype], shape, vertical, horizontal), tasks, 4 * x.numel())


def backward(
    grad: Tensor, x: Tensor, down: Tensor, across: Tensor, grads: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Fill `grads`, the gradients of x, down and across."""
    half, real = x.shape[1] // 2, arguments.real_type(x)
    openings = [torch.sigmoid(gate.to(real)) for gate in (down, across)]
    gates = openings[0].transpose(1, 2)[:, :, :, None], openings[1].transpose(1, 2)[:, :, None, :]
    parts = zip(x.split(half, 1), grad.split(half, 1), grads[0].split(half, 1), gates, strict=True)
    for (value, upper, target, gate), opening, length, along in zip(
        parts, openings, grads[1:], (3, 2), strict=True
    ):
        torch.mul(upper, gate, out=target)
        total = (upper.to(real) * value.to(real)).sum(along).transpose(1, 2)  # (B, H or W, C/2)
        length.copy_(total * opening * (1 - opening))
