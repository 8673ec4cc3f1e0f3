"""The middle of the S6 mixer, between in_proj and out_proj, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from xyscannet.ops.causal_conv1d import slice_conv1d
from xyscannet.ops.convolution import linear_channels_last
from xyscannet.ops.selective_scan import slice_scan


def scan_inputs(
    u: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    states: int,
    directions: Sequence[str],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the scan takes of u (B, H, W, K, E): u convolved, delta before its bias and softplus, B and C."""
    u = slice_conv1d(u, conv_weight, conv_bias, "silu", directions)
    dbc = linear_channels_last(u, x_proj)  # (B, H, W, K, dt_rank + 2N)
    dt, B, C = dbc.split([dt_weight.shape[1], states, states], dim=-1)
    delta = linear_channels_last(dt.contiguous(), dt_weight)  # (B, H, W, K, E)
    return u, delta, B, C


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
    u, z = xz.chunk(2, dim=-1)  # (B, H, W, K, E) each
    u, delta, B, C = scan_inputs(u, conv_weight, conv_bias, x_proj, dt_weight, A.shape[1], directions)
    return slice_scan(u, delta, A, B, C, D, z, dt_bias, True, directions)
