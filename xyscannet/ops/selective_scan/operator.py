"""The selective scan as a torch.library operator: one entry for every compiled backend, opaque to torch.compile."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xyscannet.ops.arguments import real_type
from xyscannet.ops.library import kernels, operator


def empty_image(x: Tensor, channels_first: bool) -> Tensor:
    """An empty tensor of x's shape (B, H, W, K, E); channels_first lays it out as (B, K, E, H, W)."""
    if not channels_first:
        return x.new_empty(x.shape)
    b, h, w, k, e = x.shape
    return x.new_empty((b, k, e, h, w)).permute(0, 3, 4, 1, 2)


def rows_of(shape: Sequence[int], directions: Sequence[str]) -> int:
    """How many rows and columns of (B, H, W, ...) the branches scan."""
    return sum(shape[0] * (shape[1] if d.endswith("x") else shape[2]) for d in directions)


def _outputs(
    u: Tensor, A: Tensor, directions: list[str], backend: str, save: bool, last: bool, channels_first: bool
):
    out = empty_image(u, channels_first)
    kept = kernels("selective_scan", backend).states_shape(u.shape, A.shape[2], directions) if save else [0]
    rows = rows_of(u.shape, directions) if last else 0
    return (
        out,
        u.new_empty(kept, dtype=real_type(u)),
        u.new_empty((rows, u.shape[4], A.shape[2]), dtype=real_type(u)),
    )


@operator(
    "scan",
    schema="(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus, str directions, str backend, bool save, bool last, bool channels_first) "
    "-> (Tensor, Tensor, Tensor)",
)
def scan(
    u, delta, A, B, C, D, z, delta_bias, delta_softplus, directions, backend, save, last, channels_first
):
    """The scan of K branches. u, delta, z (B, H, W, K, E); B, C (B, H, W, K, N); A (K, E, N); D, delta_bias (K, E).

    `directions` is a comma-separated list of K of "x", "-x", "y", "-y". Returns the output, what the backward pass of
    the backend keeps (with `save`), and the last states of all rows (rows, E, N) (with `last`).
    """
    ways = directions.split(",")
    out, states, final = _outputs(u, A, ways, backend, save, last, channels_first)
    kernels("selective_scan", backend).forward(
        *(u, delta, A, B, C, D, z, delta_bias, delta_softplus, ways, out),
        states if save else None,
        final if last else None,
    )
    return out, states, final


@scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, directions, backend, save, last, channels_first):
    return _outputs(u, A, directions.split(","), backend, save, last, channels_first)


def _gradients(u, delta, A, B, C, D, z, delta_bias, channels_first):
    """Empty gradients; those of absent inputs have no elements."""

    def same(x):
        return u.new_empty(0) if x is None else x.new_empty(x.shape)

    def image(x):
        return u.new_empty(0) if x is None else empty_image(x, channels_first)

    return image(u), image(delta), same(A), same(B), same(C), same(D), image(z), same(delta_bias)


@operator(
    "scan_backward",
    schema="(Tensor grad_out, Tensor? grad_last, Tensor states, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, "
    "Tensor? D, Tensor? z, Tensor? delta_bias, bool delta_softplus, str directions, str backend, "
    "bool channels_first) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def scan_backward(
    grad_out,
    grad_last,
    states,
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    delta_softplus,
    directions,
    backend,
    channels_first,
):
    """The gradients of u, delta, A, B, C, D, z and delta_bias of `scan`."""
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    grads = _gradients(*inputs, channels_first)
    given = [None if x is None else grad for x, grad in zip(inputs, grads, strict=True)]
    kernels("selective_scan", backend).backward(
        grad_out, grad_last, states, *inputs, delta_softplus, directions.split(","), given
    )
    return grads


@scan_backward.register_fake
def _(
    grad_out,
    grad_last,
    states,
    u,
    delta,
    A,
    B,
    C,
    D,
    z,
    delta_bias,
    delta_softplus,
    directions,
    backend,
    channels_first,
):
    return _gradients(u, delta, A, B, C, D, z, delta_bias, channels_first)


def _setup(ctx, inputs, output):
    *tensors, delta_softplus, directions, backend, save, last, channels_first = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1], *tensors)
    ctx.settings = (delta_softplus, directions, backend, channels_first)
    ctx.saved_states, ctx.last = save, last


def _backward(ctx, grad_out, _, grad_last):
    states, *inputs = ctx.saved_tensors
    if not ctx.saved_states:
        raise RuntimeError("this scan was run without `save`, so it has no gradient")
    if grad_out is None:
        grad_out = torch.zeros_like(inputs[0])
    grads = scan_backward(grad_out, grad_last if ctx.last else None, states, *inputs, *ctx.settings)
    return (*(None if x is None else g for x, g in zip(inputs, grads, strict=True)), *[None] * 6)


scan.register_autograd(_backward, setup_context=_setup)
