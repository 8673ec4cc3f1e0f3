"""SS2D, the flatten-and-scan module of MambaIR (Guo et al., 2024), which slice-and-scan is compared with."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xyscannet.models.layers import LayerNorm2d, pointwise
from xyscannet.models.mamba import init_scan, real
from xyscannet.ops import slice_scan
from xyscannet.ops.convolution import linear_channels_last
from xyscannet.ops.gate import silu_mul

EXPAND, D_CONV = 1.5, 3
DIRECTIONS = ("x", "x", "-x", "-x")


class SS2D(nn.Module):
    """The whole feature map as one sequence, scanned four ways, each with parameters of its own.

    Input and output (B, C, H, W). The four sequences of H*W steps are the pixels row by row, column by column, and
    both backwards; their outputs are added, normalised and gated. Parameters are named as in MambaIR.

    Args:
        channels: C; the inner width is E = 1.5 C.
        d_state: states a channel.
    """

    def __init__(self, channels: int, d_state: int = 16) -> None:
        super().__init__()
        inner, ways = int(EXPAND * channels), len(DIRECTIONS)
        self.dt_rank, self.d_state = math.ceil(channels / 16), d_state
        self.in_proj = pointwise(channels, 2 * inner)
        self.conv2d = nn.Conv2d(inner, inner, D_CONV, padding=D_CONV // 2, groups=inner)
        self.x_proj_weight = nn.Parameter(torch.empty(ways, self.dt_rank + 2 * d_state, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(ways, inner, self.dt_rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(ways, inner))
        self.A_logs = nn.Parameter(torch.empty(ways, inner, d_state))
        self.Ds = nn.Parameter(torch.ones(ways, inner))
        self.out_norm = LayerNorm2d(inner)
        self.out_proj = pointwise(inner, channels)
        if not self.A_logs.is_meta:
            nn.init.uniform_(self.x_proj_weight, -(inner**-0.5), inner**-0.5)
            init_scan(self.A_logs, self.dt_projs_weight, self.dt_projs_bias)

    def forward(self, x: Tensor) -> Tensor:
        features, gate = self.in_proj(x).chunk(2, dim=1)  # (B, E, H, W) each
        y = self.out_norm(self._scan(F.silu(self.conv2d(features))))  # (B, E, H, W)
        return self.out_proj(silu_mul(gate, y))

    def _scan(self, x: Tensor) -> Tensor:
        """(B, E, H, W) -> (B, E, H, W), the sum of the four scans."""
        height, width = x.shape[2:]
        u, delta, B, C = (each.unsqueeze(1) for each in self._scan_inputs(x))  # an image one row high
        A = -torch.exp(real(self.A_logs))  # (4, E, N)
        y = slice_scan(u, delta, A, B, C, self.Ds, None, self.dt_projs_bias, True, DIRECTIONS)
        rows, columns = (y[:, 0, :, 0::2].sum(2), y[:, 0, :, 1::2].sum(2))  # (B, L, E) each
        rows = rows.unflatten(1, (height, width))
        columns = columns.unflatten(1, (width, height)).transpose(1, 2)
        return (rows + columns).permute(0, 3, 1, 2)

    def _scan_inputs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x (B, E, H, W) as four sequences (B, L, 4, E), delta before its bias and softplus, B and C (B, L, 4, N)."""
        rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, L, E), L = H * W
        columns = x.permute(0, 3, 2, 1).flatten(1, 2)
        u = torch.stack([rows, columns, rows, columns], dim=2)  # (B, L, 4, E)
        dbc = _each(u, self.x_proj_weight)  # (B, L, 4, dt_rank + 2N)
        dt, B, C = dbc.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return u, _each(dt, self.dt_projs_weight), B, C

    def steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """How the state moves at each pixel of a forward of x (B, C, H, W), to be looked at; see `Mamba.steps`.

        Returns delta (B, H, W, 4, E) in the order rows, columns, rows backwards, columns backwards, and A (4, E, N).
        """
        height, width = x.shape[2:]
        features = self.in_proj(x).chunk(2, dim=1)[0]
        delta = self._scan_inputs(F.silu(self.conv2d(features)))[1]  # (B, L, 4, E)
        rows, columns = (
            F.softplus(real(delta) + self.dt_projs_bias).unflatten(2, (2, 2)).unbind(3)
        )  # (B, L, 2, E) each
        rows = rows.unflatten(1, (height, width))
        columns = columns.unflatten(1, (width, height)).transpose(1, 2)
        delta = torch.stack([rows, columns], dim=4).flatten(3, 4)  # (B, H, W, 4, E)
        return delta, -torch.exp(real(self.A_logs))


def _each(x: Tensor, weights: Tensor) -> Tensor:
    """x (B, L, K, I) with weights (K, O, I), branch by branch -> (B, L, K, O)."""
    return torch.stack(
        [linear_channels_last(x[:, :, k].contiguous(), weight) for k, weight in enumerate(weights)], dim=2
    )
