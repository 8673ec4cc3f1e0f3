"""The means of rows and columns as a torch.library operator, opaque to torch.compile."""

from __future__ import annotations

import torch
from torch import Tensor

from xyscannet.ops.library import kernels, operator


def _outputs(x: Tensor) -> tuple[Tensor, Tensor]:
    batch, channels, height, width = x.shape
    return x.new_empty(batch, height, channels // 2), x.new_empty(batch, width, channels // 2)


@operator("line_means", schema="(Tensor x, str backend) -> (Tensor, Tensor)")
def line_means(x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """x (B, C, H, W) -> (B, H, C/2), (B, W, C/2)."""
    down, across = _outputs(x)
    kernels("line_means", backend).forward(x, down, across)
    return down, across


line_means.register_fake(lambda x, backend: _outputs(x))


def _save(ctx, inputs, output) -> None:
    ctx.size = inputs[0].shape[2:]


def _gradient(ctx, down: Tensor, across: Tensor) -> tuple[Tensor, None]:
    height, width = ctx.size
    rows = (down / width).unsqueeze(2).expand(-1, -1, width, -1)
    columns = (across / height).unsqueeze(1).expand(-1, height, -1, -1)
    return torch.cat([rows, columns], dim=3).permute(0, 3, 1, 2), None


line_means.register_autograd(_gradient, setup_context=_save)
