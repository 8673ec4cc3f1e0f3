"""The gates of rows and columns in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor


def line_gate(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """x (B, C, H, W), down (B, H, C/2), across (B, W, C/2) -> (B, C, H, W)."""
    rows, columns = x.chunk(2, dim=1)
    gate_down = torch.sigmoid(down).transpose(1, 2)[:, :, :, None]  # (B, C/2, H, 1)
    gate_across = torch.sigmoid(across).transpose(1, 2)[:, :, None, :]  # (B, C/2, 1, W)
    return torch.cat([rows * gate_down, columns * gate_across], dim=1).to(x.dtype)
