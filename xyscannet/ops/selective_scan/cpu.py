"""The selective scan on the CPU: describes torch tensors to the compiled kernels and runs them on threads."""

from __future__ import annotations

import torch
from torch import Tensor

from xyscannet.ops.arguments import real_type
from xyscannet.ops.layout import CODES, Layout, channel_blocks, readable
from xyscannet.ops.selective_scan import cpu_kernels as kernels
from xyscannet.ops.simd import LANES
from xyscannet.ops.tiles import TILE


def states_shape(shape: tuple[int, ...], states: int, directions: tuple[str, ...]) -> list[int]:
    """The shape (tiles of all rows and blocks, states, lanes) of what the forward keeps for the backward."""
    batch, height, width, _, channels = shape
    block, blocks = channel_blocks(channels)
    tiles = 0
    for direction in directions:
        rows, steps = (height, width) if direction.endswith("x") else (width, height)
        tiles = tiles + batch * rows * ((steps + TILE - 1) // TILE)
    return [tiles * blocks, states, -(-block // LANES) * LANES]


class _ScanLayout(Layout):
    """A layout that also describes what the forward pass keeps."""

    def kept(self, index: int, x: Tensor | None) -> None:
        """The states at the starts of tiles, as `states_shape` tells; contiguous."""
        if x is None:
            return
        size, code = x.element_size(), CODES[x.dtype]
        tile = x.shape[1] * x.shape[2] * size
        address = x.data_ptr()
        for k, (batch, rows, steps) in enumerate(self.branches.tolist()):
            row = -(-steps // TILE) * tile
            chunk = batch * rows * row
            self.tensors[k][index] = (address, code, rows * row, row, tile, size, chunk)
            address += chunk * self.blocks


def _inputs(layout: _ScanLayout, u, delta, A, B, C, D, z, delta_bias) -> None:
    for index, x in ((kernels.U, u), (kernels.DELTA, delta), (kernels.Z, z)):
        layout.image(index, x)
    for index, x in ((kernels.B, B), (kernels.C, C)):
        layout.image(index, x, 0)
    for index, x in ((kernels.A, A), (kernels.D, D), (kernels.BIAS, delta_bias)):
        layout.parameter(index, x)


def forward(
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
    out: Tensor,
    states: Tensor | None,
    last: Tensor | None,
) -> None:
    """Fill `out` (B, H, W, K, E), and where given `states` (`states_shape`) and `last` (rows, E, N)."""
    if not u.numel():
        if last is not None:
            last.zero_()
        return
    real = real_type(u)
    u, delta, A, B, C, D, z, delta_bias, target = readable(real, u, delta, A, B, C, D, z, delta_bias, out)
    layout = _ScanLayout(u.shape, directions, kernels.TENSORS, A.shape[2], delta_softplus)
    _inputs(layout, u, delta, A, B, C, D, z, delta_bias)
    layout.image(kernels.OUT, target)
    layout.kept(kernels.STATES, states)
    layout.per_row(kernels.LAST, last)
    layout.run(kernels.scan_forward, real)
    if target is not out:
        out.copy_(target)


def backward(
    grad_out: Tensor,
    grad_last: Tensor | None,
    states: Tensor,
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
    grads: list[Tensor | None],
) -> None:
    """Fill `grads`, the gradients of u, delta, A, B, C, D, z and delta_bias (None where the input is None)."""
    if not u.numel():
        for grad in grads:
            if grad is not None:
                grad.zero_()
        return
    du, d_delta, dA, dB, dC, dD, dz, d_bias = grads
    real = real_type(u)
    grad_out, u, delta, A, B, C, D, z, delta_bias = readable(
        real, grad_out, u, delta, A, B, C, D, z, delta_bias
    )
    layout = _ScanLayout(u.shape, directions, kernels.TENSORS, A.shape[2], delta_softplus)
    _inputs(layout, u, delta, A, B, C, D, z, delta_bias)
    layout.image(kernels.DOUT, grad_out)
    layout.per_row(kernels.DLAST, *readable(real, grad_last))
    layout.kept(kernels.STATES, states)
    targets = readable(real, du, d_delta, dz)
    for index, x in zip((kernels.DU, kernels.DDELTA, kernels.DZ), targets, strict=True):
        layout.image(index, x)
    parts = []
    for index, x in ((kernels.DB, dB), (kernels.DC, dC)):
        part = x
        if layout.blocks > 1 or readable(real, x)[0] is not x:
            part = torch.empty((layout.blocks, *x.shape), dtype=real)
        layout.image(index, part if part is x else part[0], 0 if part is x else part.stride(0))
        parts.append(part)
    partial = layout.sums(kernels.PARTIAL, layout.inner + 2, real)
    layout.run(kernels.scan_backward, real)
    for grad, target in zip((du, d_delta, dz), targets, strict=True):
        if target is not grad:
            grad.copy_(target)
    for grad, part in zip((dB, dC), parts, strict=True):
        if part is not grad:
            grad.copy_(part.sum(0))
    sums = layout.add_up(partial, u.shape[4])
    dA.copy_(sums[:, : layout.inner].transpose(1, 2))
    if dD is not None:
        dD.copy_(sums[:, layout.inner])
    if d_bias is not None:
        d_bias.copy_(sums[:, layout.inner + 1])
