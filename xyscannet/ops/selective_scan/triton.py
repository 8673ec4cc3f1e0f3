"""The selective scan on the GPU: hands torch tensors to the Triton kernels. See `triton_kernels`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from xyscannet.ops.selective_scan import triton_kernels as kernels
from xyscannet.ops.selective_scan import triton_parts
from xyscannet.ops.selective_scan.operator import rows_of
from xyscannet.ops.triton_walk import last_stride, launches, most, real_type, strides

BLOCK = 32  # channels of a program: the lanes of its one warp
CHUNK = 8  # steps from one kept state to the next
SPAN = 4  # steps whose states the backward pass holds in registers; a divisor of CHUNK
GROUP = 2  # steps loaded together in the forward pass; a divisor of CHUNK
PART = 32  # steps of a part where rows are cut; a multiple of CHUNK and GROUP
FEW = 512  # warps: where whole rows give fewer, rows are cut
PROGRAMS = 512  # programs that share the rows of one branch and block of channels in the backward pass


def _chunks(shape: Sequence[int], directions: Sequence[str]) -> int:
    """Kept states of a branch: those of all its rows."""
    batch, height, width = shape[:3]
    return batch * most(
        height * ((width + CHUNK - 1) // CHUNK), width * ((height + CHUNK - 1) // CHUNK), directions
    )


def states_shape(shape: Sequence[int], states: int, directions: Sequence[str]) -> list[int]:
    """The shape (K, chunks, N, E) of what the forward keeps for the backward."""
    return [len(directions), _chunks(shape, directions), states, shape[4]]


def _part(first: int, count: int, images: Sequence[Tensor | None], parameters: Sequence[Tensor | None]):
    """Some branches of (B, H, W, K, .) images and of (K, ...) parameters."""
    yield [None if x is None else x[:, :, :, first : first + count] for x in images]
    yield [None if x is None else x[first : first + count] for x in parameters]


def cut(shape: Sequence[int], directions: Sequence[str]) -> tuple[int, int]:
    """Parts of a row and steps of a part: one part of any length, unless there are few rows for a GPU."""
    batch, height, width, _, channels = shape
    longest = most(width, height, directions)
    warps = batch * most(height, width, directions) * triton.cdiv(channels, BLOCK) * len(directions)
    if warps >= FEW or longest <= 2 * PART:
        return 1, triton.cdiv(longest, CHUNK) * CHUNK
    return triton.cdiv(longest, PART), PART


def _starts(images, rates, bias, softplus, part, grid, place) -> Tensor:
    """The state at the start of every part, (K, items, N, E); `place` is (batch, height, width, vertical, reverse)."""
    u, delta, B = images
    batch, height, width, vertical, reverse = place
    count, states, channels = rates.shape
    ends = rates.new_empty((count, grid[0], states, channels))
    spent = rates.new_empty((count, grid[0], channels))
    constants = _constants(u, states, softplus)
    del constants["CHUNK"]
    triton_parts.part_ends[grid](
        *(u, delta, rates, B, bias, ends, spent),
        *(*strides(u), *strides(delta), *strides(B), *_both_strides(bias)),
        *map(last_stride, (u, delta, B)),
        *(batch, height, width, channels, vertical, reverse, part[0], grid[0], part[1]),
        GROUP=GROUP,
        **constants,
    )
    triton_parts.part_starts[grid[0] // part[0], grid[1], grid[2]](
        *(rates, ends, spent, batch, height, width, channels, vertical, part[0], grid[0]),
        **{name: constants[name] for name in ("N", "NP", "BLOCK", "REAL", "num_warps")},
    )
    return ends


def _constants(u: Tensor, states: int, softplus: bool) -> dict:
    _, real, terms = real_type(u)
    return {
        "N": states,
        "NP": triton.next_power_of_2(states),
        "BLOCK": BLOCK,
        "CHUNK": CHUNK,
        "SOFTPLUS": softplus,
        "REAL": real,
        "TERMS": terms,
        "num_warps": 1,
    }


def _both_strides(x: Tensor | None) -> tuple[int, ...]:
    return (0, 0) if x is None else x.stride()


def _states_first(x: Tensor, real: torch.dtype) -> Tensor:
    """(., E, N) as the kernels read it: (., N, E) contiguous, channels on neighbouring lanes."""
    return x.to(real).transpose(1, 2).contiguous()


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
    directions: Sequence[str],
    out: Tensor,
    states: Tensor | None,
    last: Tensor | None,
) -> None:
    """Fill `out` (B, H, W, K, E), and where given `states` (`states_shape`) and `last` (rows, E, N)."""
    if not u.numel():
        if last is not None:
            last.zero_()
        return
    batch, height, width, _, channels = u.shape
    real = real_type(u)[0]
    rates = _states_first(A, real)
    final = None if last is None else last.new_empty((last.shape[0], A.shape[2], channels))
    for first, count, vertical, reverse in launches(directions):
        images, parameters = _part(first, count, (u, delta, B, C, z, out), (rates, D, delta_bias, states))
        u_k, delta_k, b_k, c_k, z_k, out_k = images
        a_k, d_k, bias_k, states_k = parameters
        last_k = None if final is None else final[rows_of(u.shape, directions[:first]) :]
        ways = directions[first : first + count]
        part = cut((batch, height, width, count, channels), ways)
        items = batch * most(height, width, ways) * part[0]
        grid = (items, triton.cdiv(channels, BLOCK), count)
        with torch.cuda.device_of(u):
            start_k = None
            if part[0] > 1:
                place = (batch, height, width, vertical, reverse)
                start_k = _starts((u_k, delta_k, b_k), a_k, bias_k, delta_softplus, part, grid, place)
            kernels.scan_forward[grid](
                *(u_k, delta_k, a_k, b_k, c_k, d_k, z_k, bias_k, out_k, states_k, last_k, start_k),
                *(*strides(u_k), *strides(delta_k), *strides(b_k), *strides(c_k)),
                *(*_both_strides(d_k), *strides(z_k), *_both_strides(bias_k), *strides(out_k)),
                *map(last_stride, (u_k, delta_k, b_k, c_k, z_k, out_k)),
                *(batch, height, width, channels, vertical, reverse, _chunks(u.shape, directions)),
                *(part[0], items, part[1]),
                GROUP=GROUP,
                **_constants(u, A.shape[2], delta_softplus),
            )
    if last is not None:
        last.copy_(final.transpose(1, 2))


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
    directions: Sequence[str],
    grads: Sequence[Tensor | None],
) -> None:
    """Fill `grads`, the gradients of u, delta, A, B, C, D, z and delta_bias (None where the input is None)."""
    if not u.numel():
        for grad in grads:
            if grad is not None:
                grad.zero_()
        return
    du, d_delta, dA, dB, dC, dD, dz, d_bias = grads
    batch, height, width, branches, channels = u.shape
    inner, blocks = A.shape[2], triton.cdiv(channels, BLOCK)
    real = real_type(u)[0]
    programs = min(PROGRAMS, batch * most(height, width, directions))
    sums = u.new_empty((branches, programs, inner + 2, channels), dtype=real)
    db_parts, dc_parts = (  # each block's own sum over its channels, added up below
        x[None] if blocks == 1 else x.new_empty((blocks, *x.shape), dtype=real) for x in (dB, dC)
    )
    rates = _states_first(A, real)
    final = None if grad_last is None else _states_first(grad_last, real)
    for first, count, vertical, reverse in launches(directions):
        images, parameters = _part(
            *(first, count),
            (u, delta, B, C, z, grad_out, du, d_delta, db_parts[0], dc_parts[0], dz),
            (rates, D, delta_bias, states, sums),
        )
        u_k, delta_k, b_k, c_k, z_k, dout_k, du_k, ddelta_k, db_k, dc_k, dz_k = images
        a_k, d_k, bias_k, states_k, sums_k = parameters
        dlast_k = None if final is None else final[rows_of(u.shape, directions[:first]) :]
        with torch.cuda.device_of(u):
            kernels.scan_backward[(programs, blocks, count)](
                *(u_k, delta_k, a_k, b_k, c_k, d_k, z_k, bias_k, dout_k, states_k, dlast_k),
                *(du_k, ddelta_k, db_k, dc_k, dz_k, sums_k),
                *(*strides(u_k), *strides(delta_k), *strides(b_k), *strides(c_k)),
                *(*_both_strides(d_k), *strides(z_k), *_both_strides(bias_k), *strides(dout_k)),
                *(stride for x in (du_k, ddelta_k, db_k, dc_k, dz_k) for stride in strides(x)),
                *map(last_stride, (u_k, delta_k, b_k, c_k, z_k, dout_k, du_k, ddelta_k, db_k, dc_k, dz_k)),
                *(db_parts.stride(0), dc_parts.stride(0)),
                *(batch, height, width, channels, vertical, reverse, _chunks(u.shape, directions)),
                SPAN=SPAN,
                **_constants(u, inner, delta_softplus),
            )
    if blocks > 1:
        dB.copy_(db_parts.sum(0))
        dC.copy_(dc_parts.sum(0))
    total = sums.sum(1)  # the second stage, in a fixed order
    dA.copy_(total[:, :inner].transpose(1, 2))
    if dD is not None:
        dD.copy_(total[:, inner])
    if d_bias is not None:
        d_bias.copy_(total[:, inner + 1])
