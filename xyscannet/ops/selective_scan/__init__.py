"""The selective scan (S6): over rows and columns of feature maps, and over plain sequences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xyscannet.ops.arguments import expect_alike, owned
from xyscannet.ops.backends import active_backend
from xyscannet.ops.selective_scan import reference
from xyscannet.ops.selective_scan.operator import scan

__all__ = ["selective_scan_fn", "slice_scan"]

_DIRECTIONS = ("x", "-x", "y", "-y")


def _run(
    tensors: tuple[Tensor | None, ...], softplus: bool, directions: str, last: bool, channels_first: bool
):
    """The scan of all branches on the active backend: output and, with `last`, the rows' last states."""
    backend = active_backend(tensors[0].device.type)
    if backend == "reference":
        return reference.scan(*tensors, softplus, directions.split(","))
    if backend == "mamba_ssm":
        from xyscannet.ops.selective_scan import mamba_ssm

        return mamba_ssm.scan(*tensors, softplus, directions.split(","))
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    out, _, state = scan(*tensors, softplus, directions, backend, save, last, channels_first)
    return out, state


def check_directions(directions: Sequence[str], branches: int) -> str:
    """The directions as one comma-separated string; ValueError if one is unknown or their number is not K."""
    if len(directions) != branches or any(d not in _DIRECTIONS for d in directions):
        raise ValueError(
            f"{branches} branches need as many directions out of {_DIRECTIONS}, not {tuple(directions)}"
        )
    return ",".join(directions)


def _expect(name: str, x: Tensor | None, shape: tuple[int, ...]) -> None:
    if x is not None and x.shape != shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {tuple(shape)}")


def _expect_something(channels: int, states: int) -> None:
    if not channels or not states:
        raise ValueError(f"there is nothing to scan: {channels} channels of {states} states")


def _per_branch(name: str, x: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """A parameter of each branch, or of all of them, as one of each."""
    if x is None or x.shape == shape:
        return x
    _expect(name, x, shape[1:])
    return x.unsqueeze(0).expand(shape)  # of one branch the gradient is a view, and no sum


def slice_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    directions: Sequence[str] = ("x", "y"),
) -> Tensor:
    """Selective scan of every row or column of a channels-last feature map.

    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t,  y_t = C_t . h_t + D u_t,  out_t = y_t silu(z_t); delta is
    softplus(delta + delta_bias) where asked (Gu and Dao, 2023).

    u, delta, z: (B, H, W, K, E); B, C: (B, H, W, K, N); A: (E, N); D, delta_bias: (E,), the last three also with a
    leading K where the branches do not share them; any strides, any mix of dtypes; the state is float32 (float64 if
    u is). Branch k runs along directions[k]: "x" left to right, "-x" right
    to left, "y" top down, "-y" bottom up, each row or column a sequence of its own. Returns (B, H, W, K, E)
    contiguous in u's dtype. Raises ValueError or TypeError where shapes, directions, devices or dtypes do not fit.
    """
    expect_alike(u=u, delta=delta, A=A, B=B, C=C, optional={"D": D, "z": z, "delta_bias": delta_bias})
    if u.dim() != 5 or A.dim() not in (2, 3):
        raise ValueError(
            f"u must be (B, H, W, K, E) and A (E, N) or (K, E, N), not {tuple(u.shape)} and {tuple(A.shape)}"
        )
    branches, channels = u.shape[3:]
    ways = check_directions(directions, branches)
    _expect("delta", delta, u.shape)
    _expect("z", z, u.shape)
    states = A.shape[-1]
    _expect_something(channels, states)
    for name, x in (("B", B), ("C", C)):
        _expect(name, x, (*u.shape[:4], states))
    A = _per_branch("A", A, (branches, channels, states))
    D = _per_branch("D", D, (branches, channels))
    delta_bias = _per_branch("delta_bias", delta_bias, (branches, channels))
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    return _run(tensors, delta_softplus, ways, False, False)[0]


def _per_group(name: str, x: Tensor, batch: int, channels: int, states: int, length: int) -> Tensor:
    """B or C of any of mamba-ssm's forms as (B, G, N, L)."""
    if x.shape == (channels, states):
        return x[None, :, :, None].expand(batch, -1, -1, length)
    if x.shape == (batch, states, length):
        return x[:, None]
    grouped = x.dim() == 4 and x.shape[1] > 0 and channels % x.shape[1] == 0
    if grouped and (x.shape[0], x.shape[2], x.shape[3]) == (batch, states, length):
        return x
    raise ValueError(
        f"{name} has shape {tuple(x.shape)}; expected (D, N) = {(channels, states)}, (B, N, L) = "
        f"{(batch, states, length)} or (B, G, N, L) with G a divisor of {channels}"
    )


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Selective scan with the signature and shapes of mamba-ssm.

    u, delta, z: (B, D, L); A: (D, N) real; B, C: constant (D, N), (B, N, L) or grouped (B, G, N, L); D, delta_bias:
    (D,). Returns (B, D, L) in u's dtype, and with return_last_state also the last state (B, D, N) in float32
    (float64 if u is). Differentiable in every input and through both results (with the backend mamba_ssm through the
    first). Constant B or C run one channel per group, which is slow. Raises TypeError for what is no real tensor,
    ValueError where shapes or devices do not fit.
    """
    expect_alike(u=u, delta=delta, A=A, B=B, C=C, optional={"D": D, "z": z, "delta_bias": delta_bias})
    if u.dim() != 3 or A.dim() != 2:
        raise ValueError(f"u must be (B, D, L) and A (D, N), not {tuple(u.shape)} and {tuple(A.shape)}")
    (batch, channels, length), states = u.shape, A.shape[1]
    _expect("delta", delta, u.shape)
    _expect("z", z, u.shape)
    _expect("A", A, (channels, states))
    _expect_something(channels, states)
    _expect("D", D, (channels,))
    _expect("delta_bias", delta_bias, (channels,))
    B = _per_group("B", B, batch, channels, states, length)
    C = _per_group("C", C, batch, channels, states, length)
    groups = max(B.shape[1], C.shape[1])
    if groups % B.shape[1] or groups % C.shape[1]:
        raise ValueError(
            f"B has {B.shape[1]} groups and C has {C.shape[1]}; one must be a multiple of the other"
        )

    def image(x: Tensor | None) -> Tensor | None:  # (B, D, L) -> (B, 1, L, G, D / G)
        return None if x is None else x.unflatten(1, (groups, -1)).permute(0, 3, 1, 2).unsqueeze(1)

    def sequence(x: Tensor) -> Tensor:  # (B, G', N, L) -> (B, 1, L, G, N)
        x = x.unsqueeze(2).expand(-1, -1, groups // x.shape[1], -1, -1).flatten(1, 2)
        return x.permute(0, 3, 1, 2).unsqueeze(1)

    def split(x: Tensor | None) -> Tensor | None:  # (D, ...) -> (G, D / G, ...)
        return None if x is None else x.unflatten(0, (groups, -1))

    tensors = (
        image(u),
        image(delta),
        split(A),
        sequence(B),
        sequence(C),
        split(D),
        image(z),
        split(delta_bias),
    )
    out, last = _run(tensors, delta_softplus, ",".join(["x"] * groups), return_last_state, True)
    out = owned(out.squeeze(1).permute(0, 2, 3, 1).flatten(1, 2))  # (B, D, L)
    if not return_last_state:
        return out
    return out, last.view(groups, batch, channels // groups, states).transpose(0, 1).flatten(1, 2)
