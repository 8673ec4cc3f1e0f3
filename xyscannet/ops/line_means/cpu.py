"""The means of rows and columns on the CPU: one pass over the map.

The sums of columns are taken in two stages over a fixed number of groups of rows of each image, so they depend neither
on the number of threads nor on the other images.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xyscannet.ops.channels_last import CODES, real_type, rows
from xyscannet.ops.compiling import compiled
from xyscannet.ops.simd import ITEM_SIZE, LANES, load, read_lanes, store
from xyscannet.ops.threads import run_tasks

_GROUPS = 16


@compiled
def _sums(address, code, step, shape, down, across, first_task, last_task):
    """down (B, H, width) and across (B, groups, W, width) <- the sums over all channels, padded to whole vectors.

    A task is a group of rows of an image; shape = height, width of the image, channels, groups.
    """
    height, columns, channels, groups = shape
    width, size = down.shape[2], ITEM_SIZE[code]
    for task in range(first_task, last_task):
        image, group = task // groups, task % groups
        summed = across[image, group].reshape(-1)
        for y in range(group * height // groups, (group + 1) * height // groups):
            row = down[image, y]
            at = address + (image * height + y) * columns * step
            for x in range(columns):
                for e in range(0, channels, LANES):
                    value = read_lanes(row, code, at + x * step + e * size, channels - e)
                    store(row, e, load(row, e) + value)
                    store(summed, x * width + e, load(summed, x * width + e) + value)


def forward(x: Tensor, down: Tensor, across: Tensor) -> None:
    """Fill down (B, H, C/2) and across (B, W, C/2)."""
    if not x.numel():
        return
    images, channels, height, columns = x.shape
    pixels, real, half = rows(x), real_type(x), channels // 2
    width, groups = -(-channels // LANES) * LANES, min(_GROUPS, height)
    vertical, horizontal = (
        np.zeros((images, *lines, width), real) for lines in ((height,), (groups, columns))
    )
    place = pixels.data_ptr(), CODES[pixels.dtype], pixels.stride(0) * pixels.element_size()
    shape = height, columns, channels, groups
    run_tasks(_sums, (*place, shape, vertical, horizontal), images * groups, 4 * x.numel())
    torch.div(torch.from_numpy(vertical[..., :half]), columns, out=down)
    torch.div(torch.from_numpy(horizontal.sum(1)[..., half:channels]), height, out=across)
