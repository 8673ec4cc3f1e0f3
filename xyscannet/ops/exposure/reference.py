"""Sub-frame by sub-frame in torch, for all items that are still exposed at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from xyscannet.ops.exposure.operator import Exposure


def gathered(exposure: Exposure) -> Tensor:
    """See `operator.gathered`."""
    light, excess = exposure.light, exposure.excess
    (height, width), (x, y) = exposure.size, exposure.origin
    columns = torch.arange(width, device=light.device, dtype=torch.float32) + x
    rows = torch.arange(height, device=light.device, dtype=torch.float32)[:, None] + y
    if exposure.behind:
        behind = torch.tensor(exposure.behind).to(light.device, non_blocking=True)
        cutout = torch.cat((light[behind], exposure.masks), 1)  # (b, 4, h', w')
        cutout_excess = None if excess is None else excess[behind]

    total = torch.zeros(len(light), 3, height, width, device=light.device)
    for k in range(exposure.counts[0]):
        active = sum(count > k for count in exposure.counts)
        grid = _grid(exposure.transforms[:active, k], columns, rows)
        frame = _sample(light[:active], grid, "bicubic")
        if excess is not None:
            frame += _sample(excess[:active], grid, "bilinear")
        shown = sum(row < active for row in exposure.behind)
        if shown:
            grid = _grid(exposure.object_transforms[:shown, k], columns, rows)
            layer = _sample(cutout[:shown], grid, "bicubic")
            mask = layer[:, 3:].clamp(0, 1)
            front = layer[:, :3]
            if excess is not None:
                front = front + _sample(cutout_excess[:shown], grid, "bilinear")
            frame[behind[:shown]] = torch.lerp(frame[behind[:shown]], front, mask)
        total[:active] += exposure.weights[:active, k].view(-1, 1, 1, 1) * frame
    return total


def _grid(transforms: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Sampling grid (A, h, w, 2) of transforms (A, 3, 3) at x (w,) and y (h, 1)."""
    along_x, along_y, at_zero = transforms.unbind(2)  # (A, 3) each
    rows = torch.addcmul(at_zero[..., None], along_x[..., None], x)  # (A, 3, w)
    points = torch.addcmul(rows[:, :, None], along_y[..., None, None], y)  # (A, 3, h, w)
    return (points[:, :2] / points[:, 2:]).permute(0, 2, 3, 1)


def _sample(images: Tensor, grid: Tensor, mode: str) -> Tensor:
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)
