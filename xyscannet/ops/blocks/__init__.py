"""The steps of a block for inference on CPUs: everything around the scans, a tile at a time, in the cache.

Operator by operator a block moves some forty maps through memory and waits for it, most of all where each result lies
in memory that is new. Here a tile of the image goes through normalisation, projection, depth-wise convolution, gate and
the projection back before the next one is read. Results are those of the operators, to rounding.
"""

from __future__ import annotations

from torch import Tensor

from xyscannet.ops.backends import own_backend
from xyscannet.ops.blocks import operator
from xyscannet.ops.channels_last import infers_here

__all__ = ["feed_forward", "runs_here", "scan_inputs", "scan_outputs"]


def runs_here(x: Tensor, weight: Tensor) -> bool:
    """Whether these functions take x and weights like this one: float32, on a CPU, without gradients."""
    return own_backend(x.device.type) == "cpu" and infers_here(x, weight)


def feed_forward(
    x: Tensor,
    norm: tuple[Tensor, Tensor, float],
    project_in: Tensor,
    taps: Tensor,
    project_out: Tensor,
    residual: bool = True,
) -> Tensor:
    """`GDFN` of the normalised x (B, C, H, W), added to x where `residual`.

    norm = weight, bias (C,), eps; project_in (2h, C, 1, 1); taps (2h, 1, 3, 3); project_out (C, h, 1, 1).
    """
    return operator.feed_forward(x, *norm, project_in, taps, project_out, residual)


def scan_inputs(
    x: Tensor,
    norm: tuple[Tensor, Tensor, float],
    proj_in: Tensor,
    taps: Tensor,
    conv_in: Tensor,
    in_proj: Tensor | None = None,
    *,
    half: int | None = None,
    features: bool = True,
    gate: bool = True,
) -> tuple[Tensor, Tensor]:
    """What a `VSSM`'s scanner scans of the normalised x (B, C, H, W), and the gate Y (B, C, H, W).

    norm = weight, bias (C,), eps; proj_in (2C, C, 1, 1); taps (2C, 1, 3, 3); conv_in (C, C, 1, 1). With in_proj
    (2E, C/2) both halves of conv_in's result are projected, (B, H, W, 2, 2E); without, the first result is conv_in's,
    (B, C, H, W).

    Args:
        half: only this half of conv_in's result: (B, H, W, 1, 2E); with in_proj only.
        features, gate: whether the first and the second result are wanted; else they have no elements.
    """
    half = -1 if half is None else half
    return operator.scan_inputs(x, *norm, proj_in, taps, conv_in, in_proj, half, features, gate)


def scan_outputs(
    first: Tensor,
    second: Tensor | None,
    gate: Tensor,
    conv_out: Tensor,
    proj_out: Tensor,
    *,
    gates: tuple[Tensor, Tensor] | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """`proj_out(silu(gate) * conv_out(maps))`, maps = first (B, C1, H, W) and second (B, C2, H, W) side by side.

    conv_out (C, C1 + C2, 1, 1); proj_out (C, C, 1, 1); gate (B, C, H, W) and so the result.

    Args:
        gates: of `line_gate`, for first: down (B, H, C1/2) and across (B, W, C1/2), without second.
        residual: (B, C, H, W), added to the result.
    """
    down, across = gates or (None, None)
    return operator.scan_outputs(first, second, down, across, gate, conv_out, proj_out, residual)
