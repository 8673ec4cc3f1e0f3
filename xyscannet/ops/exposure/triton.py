"""A whole exposure in one kernel on the GPU. See `triton_kernels`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor

from xyscannet.ops.exposure import triton_kernels as kernels

if TYPE_CHECKING:
    from xyscannet.ops.exposure.operator import Exposure

HIGH, WIDE = 4, 32  # pixels of a program's tile, one for each thread
WARPS = 4


def gathered(exposure: Exposure) -> Tensor:
    """See `operator.gathered`."""
    light, excess = exposure.light.contiguous(), exposure.excess
    batch, device = len(light), light.device
    height, width = exposure.size
    place = {row: at for at, row in enumerate(exposure.behind)}
    facts = torch.tensor(
        [
            (count, place.get(row, -1), excess is not None and lit)
            for row, (count, lit) in enumerate(zip(exposure.counts, exposure.bright, strict=True))
        ],
        dtype=torch.int32,
    ).to(device, non_blocking=True)
    masks, drifting = exposure.masks, exposure.object_transforms
    total = torch.empty(batch, 3, height, width, device=device)
    grid = (triton.cdiv(height, HIGH) * triton.cdiv(width, WIDE), batch)
    with torch.cuda.device_of(light):
        kernels.gather[grid](
            light,
            light if excess is None else excess.contiguous(),
            light if masks is None else masks.contiguous(),
            facts,
            exposure.transforms.contiguous(),
            exposure.transforms if drifting is None else drifting.contiguous(),
            exposure.weights.contiguous(),
            total,
            *(height, width, *light.shape[2:], exposure.transforms.shape[1], *exposure.origin),
            HIGH=HIGH,
            WIDE=WIDE,
            num_warps=WARPS,
        )
    return total
