"""The middle of the S6 mixer, between in_proj and out_proj, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from xyscannet.ops.causal_conv1d import slice_conv1d
from xyscannet.ops.linear import linear_channels_last
from xyscannet.ops.selective_scan import slice_scan


def mixer(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    directions: Sequence[str],
) -> Tensor:
    """xz (B, H, W, K, 2E) -> (B, H, W, K, E); see `xyscannet.ops.mixer.mamba_mixer`."""
    rank, states = dt_weight.shape[1], A.shape[1]
    u, z = xz.chunk(2, dim=-1)  # (B, H, W, K, E) each
    u = slice_conv1d(u, conv_weight, conv_bias, "silu", directions)
    dbc = linear_channels_last(u, x_proj)  # (B, H, W, K, dt_rank + 2N)
    dt, B, C = dbc.split([rank, states, states], dim=-1)
    delta = linear_channels_last(dt.contiguous(), dt_weight)  # (B, H, W, K, E)
    return slice_scan(u, delta, A, B, C, D, z, dt_bias, True, directions)
