"""The selective scan as it is defined (Gu and Dao, 2023): a loop over the sequence in plain torch.

Any device and dtype; the state is float64 for float64 input and float32 otherwise. Differentiable by autograd.
Every other backend is tested against this file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xyscannet.ops.arguments import real_type


def selective_scan_rows(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Scan every row. u, delta, z (rows, L, E); A (E, N); B, C (rows, L, N); D, delta_bias (E,).

    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t,  y_t = C_t . h_t + D u_t,  out_t = y_t silu(z_t), t from 0 to
    L - 1, or from L - 1 to 0 with `reverse`. Returns out (rows, L, E) in u's dtype and the last state (rows, E, N).
    """
    dtype = real_type(u)
    delta, x = delta.to(dtype), u.to(dtype)
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)
    A, B, C = A.to(dtype), B.to(dtype), C.to(dtype)
    h = x.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    outputs: list[Tensor] = [x] * u.shape[1]
    for t in reversed(range(u.shape[1])) if reverse else range(u.shape[1]):
        step = delta[:, t, :, None]  # (rows, E, 1)
        h = torch.exp(step * A) * h + step * x[:, t, :, None] * B[:, t, None, :]  # (rows, E, N)
        outputs[t] = (h * C[:, t, None, :]).sum(-1)  # (rows, E)
    y = torch.stack(outputs, 1) if outputs else x
    if D is not None:
        y = y + x * D.to(dtype)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), h


def to_rows(x: Tensor | None, branch: int, direction: str) -> Tensor | None:
    """One branch of (B, H, W, K, E) as sequences: (B*H, W, E) along x, (B*W, H, E) along y."""
    if x is None:
        return None
    x = x[:, :, :, branch]
    return (x if direction.endswith("x") else x.transpose(1, 2)).flatten(0, 1)


def from_rows(rows: Tensor, shape: tuple[int, ...], direction: str) -> Tensor:
    """The inverse of `to_rows`, (B, H, W, E)."""
    (b, h, w), channels = shape[:3], rows.shape[-1]
    if direction.endswith("x"):
        return rows.reshape(b, h, w, channels)
    return rows.reshape(b, w, h, channels).transpose(1, 2)


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    directions: tuple[str, ...],
) -> tuple[Tensor, Tensor]:
    """The branches one after another; A (K, E, N), D and delta_bias (K, E), the rest as in `slice_scan`.

    Returns the output (B, H, W, K, E) and the last states of all rows, branch after branch, (rows, E, N).
    """
    outputs, states = [], []
    for k, direction in enumerate(directions):
        out, state = selective_scan_rows(
            *(to_rows(u, k, direction), to_rows(delta, k, direction), A[k]),
            *(to_rows(B, k, direction), to_rows(C, k, direction)),
            D=None if D is None else D[k],
            z=to_rows(z, k, direction),
            delta_bias=None if delta_bias is None else delta_bias[k],
            delta_softplus=delta_softplus,
            reverse=direction.startswith("-"),
        )
        outputs.append(from_rows(out, u.shape, direction))
        states.append(state)
    return torch.stack(outputs, 3), torch.cat(states)
