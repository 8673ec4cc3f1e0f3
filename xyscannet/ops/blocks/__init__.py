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


def runs_here(x: Tensor, *weights: Tensor) -> bool:
    """Whether these functions take x with these weights: float32, on a CPU, without gradients."""
    return own_backend(x.device.type) == "cpu" and infers_here(x, *weights)


def _expect(name: str, tensor: Tensor | None, *shape: int) -> None:
    """The kernels read plain addresses: what does not fit must not reach them."""
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")


def _expect_front(x: Tensor, norm: tuple[Tensor, Tensor, float], project: Tensor, taps: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (B, C, H, W)")
    for name, tensor in (("weight", norm[0]), ("bias", norm[1])):
        _expect(f"the norm's {name}", tensor, x.shape[1])
    hidden = project.shape[0] // 2 * 2
    _expect("the first projection", project, hidden, x.shape[1], 1, 1)
    _expect("taps", taps, hidden, 1, 3, 3)


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
    Raises ValueError where the shapes do not fit.
    """
    _expect_front(x, norm, project_in, taps)
    _expect("project_out", project_out, x.shape[1], project_in.shape[0] // 2, 1, 1)
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

    Raises:
        ValueError: the shapes do not fit, or C is odd where there are halves.
    """
    channels = x.shape[1]
    _expect_front(x, norm, proj_in, taps)
    _expect("proj_in", proj_in, 2 * channels, channels, 1, 1)
    _expect("conv_in", conv_in, channels, channels, 1, 1)
    if in_proj is not None:
        _expect("in_proj, of the halves of an even number of channels,", in_proj, len(in_proj), channels / 2)
    elif half is not None:
        raise ValueError("a half of what conv_in makes is for in_proj")
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

    Raises:
        ValueError: the shapes do not fit.
    """
    batch, channels, height, width = gate.shape
    _expect("first", first, batch, first.shape[1], height, width)
    if second is not None:
        _expect("second", second, batch, second.shape[1], height, width)
    _expect("residual", residual, *gate.shape)
    inner = first.shape[1] + (0 if second is None else second.shape[1])
    _expect("conv_out", conv_out, channels, inner, 1, 1)
    _expect("proj_out", proj_out, channels, channels, 1, 1)
    down, across = gates or (None, None)
    _expect("down, of first alone,", down, batch, height, inner / 2)
    _expect("across, of first alone,", across, batch, width, inner / 2)
    return operator.scan_outputs(first, second, down, across, gate, conv_out, proj_out, residual)
