"""Where each part of a long row starts, so that the parts can be walked side by side.

Few long rows (the inter scan has one a batch element and direction) leave a GPU idle when each is walked by one warp.
A row is cut into parts: every part is walked from a zero state first, which gives its last state and the sum of its
steps; over a part the state decays by exp(A sum of steps), so a short loop over the parts gives the true state at the
start of each. `scan_forward` then walks all parts at once from there.
"""

# ruff: noqa: RUF005 -- Triton knows no starred tuples.
from __future__ import annotations

import triton
import triton.language as tl

from xyscannet.ops.selective_scan.triton_kernels import LOG2E, _step_size
from xyscannet.ops.triton_walk import line, unspecialised

_SIZES = ("batch", "height", "width", "channels", "vertical", "backward", "parts", "items", "span")
_PLAIN = unspecialised(("u", "delta", "b"), (*_SIZES, "bias_k", "bias_e"))


@triton.jit(**_PLAIN)
def part_ends(
    u, delta, A, B, bias, ends, spent,
    u_b, u_h, u_w, u_k, delta_b, delta_h, delta_w, delta_k, b_b, b_h, b_w, b_k, bias_k, bias_e,
    u_e, delta_e, b_e,
    batch, height, width, channels, vertical, backward, parts, items, span,
    N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
    SOFTPLUS: tl.constexpr, REAL: tl.constexpr, TERMS: tl.constexpr,
):  # fmt: skip
    """Grid (parts of rows, blocks of channels, branches); arguments as in `scan_forward`.

    ends (K, items, N, E) takes the state at the end of each part walked from zero, spent (K, items, E) the sum of
    its steps; both of the real type, contiguous.
    """
    branch = tl.program_id(2)
    upright = ((vertical >> branch) & 1) != 0
    reverse = ((backward >> branch) & 1) != 0
    lines = tl.where(upright, width, height)
    steps = tl.where(upright, height, width)
    lane = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    n = tl.arange(0, NP).to(tl.int64)
    on = lane < channels
    known = n < N
    both = known[:, None] & on[None, :]
    k = branch.to(tl.int64)
    decay = tl.load(A + k * N * channels + n[:, None] * channels + lane[None, :], mask=both, other=0) * LOG2E
    shift = tl.zeros([BLOCK], REAL)
    if bias is not None:
        shift = tl.load(bias + k * bias_k + lane * bias_e, mask=on, other=0).to(REAL)
    for item in range(tl.program_id(0), batch * lines * parts, tl.num_programs(0)):
        row = item // parts
        part = item - row * parts
        image = row // lines
        across = row - image * lines
        u_at, u_step = line(u_b, u_h, u_w, u_k, image, across, branch, upright, reverse, steps)
        delta_at, delta_step = line(
            delta_b, delta_h, delta_w, delta_k, image, across, branch, upright, reverse, steps
        )
        b_at, b_step = line(b_b, b_h, b_w, b_k, image, across, branch, upright, reverse, steps)
        h = tl.zeros([NP, BLOCK], REAL)
        total = tl.zeros([BLOCK], REAL)
        for first in range(part * span, tl.minimum(steps, (part + 1) * span), GROUP):
            us, ds, bs = (), (), ()
            for i in tl.static_range(GROUP):
                t = first + i
                live = t < steps
                us = us + (tl.load(u + u_at + t * u_step + lane * u_e, mask=on & live, other=0),)
                ds = ds + (
                    tl.load(delta + delta_at + t * delta_step + lane * delta_e, mask=on & live, other=0),
                )
                bs = bs + (tl.load(B + b_at + t * b_step + n * b_e, mask=known & live, other=0),)
            for i in tl.static_range(GROUP):
                dt = _step_size(ds[i].to(REAL), shift, first + i < steps, SOFTPLUS, TERMS)
                drive = (dt * us[i].to(REAL))[None, :] * bs[i].to(REAL)[:, None]
                h = tl.exp2(dt[None, :] * decay) * h + drive
                total += dt
        place = k * items + item
        tl.store(ends + place * N * channels + n[:, None] * channels + lane[None, :], h, mask=both)
        tl.store(spent + place * channels + lane, total, mask=on)


@triton.jit(do_not_specialize=["batch", "height", "width", "channels", "vertical", "parts", "items"])
def part_starts(
    A, ends, spent, batch, height, width, channels, vertical, parts, items,
    N: tl.constexpr, NP: tl.constexpr, BLOCK: tl.constexpr, REAL: tl.constexpr,
):  # fmt: skip
    """Grid (rows, blocks of channels, branches): `ends` of `part_ends` becomes the state at each part's start."""
    branch = tl.program_id(2)
    lines = tl.where(((vertical >> branch) & 1) != 0, width, height)
    lane = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    n = tl.arange(0, NP).to(tl.int64)
    on = lane < channels
    both = (n < N)[:, None] & on[None, :]
    k = branch.to(tl.int64)
    decay = tl.load(A + k * N * channels + n[:, None] * channels + lane[None, :], mask=both, other=0) * LOG2E
    for row in range(tl.program_id(0), batch * lines, tl.num_programs(0)):
        h = tl.zeros([NP, BLOCK], REAL)
        for part in range(parts):
            place = k * items + tl.cast(row, tl.int64) * parts + part
            here = ends + place * N * channels + n[:, None] * channels + lane[None, :]
            gain = tl.load(here, mask=both, other=0)
            total = tl.load(spent + place * channels + lane, mask=on, other=0)
            tl.store(here, h, mask=both)
            h = tl.exp2(total[None, :] * decay) * h + gain
