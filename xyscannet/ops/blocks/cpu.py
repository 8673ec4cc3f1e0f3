"""The steps of a block on the CPU: describes torch tensors to the compiled kernels, and lays out the weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from xyscannet.ops.blocks import cpu_kernels as kernels
from xyscannet.ops.channels_last import together
from xyscannet.ops.depthwise.cpu_tiles import RUN
from xyscannet.ops.keeping import once
from xyscannet.ops.line_gate.cpu import opened
from xyscannet.ops.packing import filled_up, halves_of, lanes_there, packed, padded, whole_vectors
from xyscannet.ops.threads import run_tasks

_FEWEST, _ROWS = 8, 32  # of a band, whose two neighbours are computed twice
_CACHE = 3 * 2**16  # elements of three rows of a tile that the second-level cache holds beside the weights
_REAL = np.dtype(np.float32)
_ABSENT = (0, 0, 0, 0)
_NONE = np.zeros((0, 0, 0), np.float32)


def _norm(weight: Tensor, bias: Tensor) -> np.ndarray:
    return np.stack([padded(weight, _REAL), padded(bias, _REAL), lanes_there(len(weight), _REAL)])


def _taps(weight: Tensor, parts: tuple[int, ...]) -> np.ndarray:
    """(O, 1, 3, 3) as (9, parts, each filled up), flat."""

    def make() -> np.ndarray:
        rows = torch.cat([filled_up(part, 0) for part in halves_of(weight, parts)])
        return rows.t().contiguous().numpy().ravel()

    return once(weight, ("taps", parts), make)


def _map(x: Tensor | None) -> tuple[int, int, int, int]:
    """A map (B, C, H, W) or (B, H, W, ...) of contiguous pixels as the kernels take it."""
    if x is None or not x.numel():
        return _ABSENT
    image, row, pixel = (x.stride()[i] * x.element_size() for i in ((0, 2, 3) if x.dim() == 4 else (0, 1, 2)))
    return x.data_ptr(), image, row, pixel


def _tiles(images: int, height: int, columns: int, wide: int) -> tuple[int, int, int]:
    """(columns of a tile, rows of a band, tasks) for rows that are `wide` elements a pixel."""
    most = 64 if 3 * 66 * wide <= _CACHE else 32
    tile = min(most, -(-columns // RUN) * RUN)
    tiles = images * -(-columns // tile)
    rows = min(max(height * tiles // torch.get_num_threads(), _FEWEST), _ROWS, height)
    return tile, rows, tiles * -(-height // rows)


def feed_forward(
    x: Tensor, norm: Tensor, bias: Tensor, eps: float, project_in: Tensor, taps: Tensor, project_out: Tensor,
    residual: bool, out: Tensor,
) -> None:  # fmt: skip
    """Fill `out`, (B, C, H, W) as x."""
    if not x.numel():
        return
    x = together(x)
    images, channels, height, columns = x.shape
    hidden = project_out.shape[1]
    tile, rows, tasks = _tiles(images, height, columns, 2 * whole_vectors(hidden))
    shape = height, columns, channels, tile, rows, hidden, int(residual)
    weights = packed(project_in, (0, 1), 2), _taps(taps, (0, 1)), packed(project_out)
    arguments = (_map(x), _map(out), shape, eps, _norm(norm, bias), *weights)
    run_tasks(kernels.feed_forward, arguments, tasks, x.numel() * hidden)


def scan_inputs(
    x: Tensor, norm: Tensor, bias: Tensor, eps: float, proj_in: Tensor, taps: Tensor, conv_in: Tensor,
    in_proj: Tensor | None, half: int, out: Tensor, gate: Tensor,
) -> None:  # fmt: skip
    """Fill `out` and `gate`, of no elements where they are not wanted."""
    if not x.numel():
        return
    x = together(x)
    images, channels, height, columns = x.shape
    features, gates = channels * bool(out.numel()), channels * bool(gate.numel())
    parts = (0,) * bool(features) + (1,) * bool(gates)
    inner = channels if half < 0 else channels // 2
    branches, outer = (out.shape[3], in_proj.shape[0]) if in_proj is not None else (0, 0)
    tile, rows, tasks = _tiles(images, height, columns, len(parts) * whole_vectors(channels))
    shape = height, columns, channels, tile, rows, features, gates, inner, branches, outer
    mixing = packed(conv_in) if half < 0 else packed(conv_in, (half,), 2)
    expanding = mixing if in_proj is None else packed(in_proj)
    weights = packed(proj_in, parts, 2), _taps(taps, parts), mixing, expanding
    arguments = (_map(x), _map(out), _map(gate), shape, eps, _norm(norm, bias), *weights)
    run_tasks(kernels.scan_inputs, arguments, tasks, x.numel() * channels)


def scan_outputs(
    first: Tensor, second: Tensor | None, down: Tensor | None, across: Tensor | None, gate: Tensor,
    conv_out: Tensor, proj_out: Tensor, x: Tensor | None, out: Tensor,
) -> None:  # fmt: skip
    """Fill `out`, (B, C, H, W) as gate."""
    if not gate.numel():
        return
    first, second, gate, x = (each if each is None else together(each) for each in (first, second, gate, x))
    images, channels, height, columns = gate.shape
    one, two = first.shape[1], 0 if second is None else second.shape[1]
    gates = _NONE, _NONE
    if down is not None:
        gates = opened(down, across, first)
    tile, rows, tasks = _tiles(images, height, columns, one + two)
    shape = height, columns, channels, tile, rows, one, two, int(down is not None), int(x is not None)
    maps = map(_map, (first, second, gate, x, out))
    arguments = (*maps, shape, *gates, packed(conv_out), packed(proj_out))
    run_tasks(kernels.scan_outputs, arguments, tasks, gate.numel() * channels)
