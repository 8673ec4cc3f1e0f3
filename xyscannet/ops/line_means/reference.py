"""The means of rows and columns in plain torch."""

from __future__ import annotations

from torch import Tensor


def line_means(x: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, C, H, W) -> the first half's means of rows (B, H, C/2), the second half's of columns (B, W, C/2)."""
    rows, columns = x.chunk(2, dim=1)
    return rows.mean(3).transpose(1, 2), columns.mean(2).transpose(1, 2)
