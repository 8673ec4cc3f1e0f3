"""Torch tensors as descriptors for the compiled CPU kernels (see `xyscannet.ops.tiles`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xyscannet.ops.channels_last import CODES
from xyscannet.ops.simd import LANES
from xyscannet.ops.threads import run_tasks
from xyscannet.ops.tiles import BLOCK

_GROUPS = 16
_REAL = {torch.float32: np.empty(0, np.float32), torch.float64: np.empty(0, np.float64)}
_ABSENT = (0, -1, 0, 0, 0, 0, 0)


def channel_blocks(channels: int) -> tuple[int, int]:
    """Channels per block and number of blocks; a block's states and tiles stay in the first-level cache."""
    blocks = -(-channels // BLOCK)
    block = channels if blocks == 1 else -(-channels // blocks // LANES) * LANES
    return block, -(-channels // block)


def readable(real: torch.dtype, *tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors as the kernels of a real type read them: float64 by float64, float32 and bfloat16 by float32."""
    direct = (torch.float64,) if real == torch.float64 else (torch.float32, torch.bfloat16)
    return [x if x is None or x.dtype in direct else x.to(real) for x in tensors]


class Layout:
    """Addresses and strides of the tensors of one call, branch by branch."""

    def __init__(
        self, shape: tuple[int, ...], directions: Sequence[str], tensors: int, inner: int, *flags: bool
    ):
        """`shape` is (B, H, W, K, E); `tensors` counts descriptors; `inner` states or taps; flags of the kernel."""
        batch, height, width, branches, channels = shape
        self.directions = directions
        self.block, self.blocks = channel_blocks(channels)
        self.inner = inner
        sizes = [(batch, height, width) if d.endswith("x") else (batch, width, height) for d in directions]
        self.branches = np.array(sizes, np.int64)
        self.groups = min(_GROUPS, max(b * r for b, r, _ in sizes))
        self.tasks = branches * self.blocks * self.groups
        self.width = -(-self.block // LANES) * LANES
        self.updates = 2 * batch * height * width * branches * channels * inner
        self.tensors = [[_ABSENT] * tensors for _ in directions]
        self.dims = np.array([channels, self.block, inner, self.groups, *flags], np.int64)

    def image(self, index: int, x: Tensor | None, block_stride: int | None = None) -> None:
        """A tensor (B, H, W, K, E or N), any strides. `block_stride` (elements) is the step from block to block."""
        if x is None:
            return
        size, code = x.element_size(), CODES[x.dtype]
        sb, sh, sw, sk, se = (s * size for s in x.stride())
        height, width = x.shape[1:3]
        chunk = se * self.block if block_stride is None else block_stride * size
        address = x.data_ptr()
        for k, direction in enumerate(self.directions):
            rows, step, last = (sh, sw, width - 1) if direction.endswith("x") else (sw, sh, height - 1)
            start = address + k * sk
            if direction.startswith("-"):
                start, step = start + last * step, -step
            self.tensors[k][index] = (start, code, sb, rows, step, se, chunk)

    def parameter(self, index: int, x: Tensor | None) -> None:
        """A tensor (K, E, N) or (K, E)."""
        if x is None:
            return
        size, code, stride = x.element_size(), CODES[x.dtype], x.stride()
        step = stride[2] * size if x.dim() == 3 else 0
        for k in range(len(self.directions)):
            address = x.data_ptr() + k * stride[0] * size
            channel = stride[1] * size
            self.tensors[k][index] = (address, code, 0, 0, step, channel, channel * self.block)

    def per_row(self, index: int, x: Tensor | None) -> None:
        """The last states (rows of all branches, E, N)."""
        if x is None:
            return
        size, code = x.element_size(), CODES[x.dtype]
        row, channel, state = (s * size for s in x.stride())
        address = x.data_ptr()
        for k, (batch, rows, _) in enumerate(self.branches.tolist()):
            self.tensors[k][index] = (address, code, rows * row, row, state, channel, channel * self.block)
            address += batch * rows * row

    def sums(self, index: int, rows: int, real: torch.dtype) -> np.ndarray:
        """Room for each task's own sums over its rows of sequences, (K, blocks, groups, rows, lanes)."""
        room = np.empty((len(self.directions), self.blocks, self.groups, rows, self.width), _REAL[real].dtype)
        for tensors in self.tensors:
            tensors[index] = (room.ctypes.data, CODES[real], 0, 0, 0, 0, 0)
        return room

    def add_up(self, room: np.ndarray, channels: int) -> Tensor:
        """The second stage: the sums over groups, in a fixed order, (K, rows, E)."""
        sums = room.sum(2)[..., : self.block].swapaxes(1, 2)
        return torch.from_numpy(sums.reshape(*sums.shape[:2], -1)[..., :channels])

    def run(self, kernel, real: torch.dtype) -> None:
        tensors = np.array(self.tensors, np.int64)
        run_tasks(kernel, (tensors, self.branches, self.dims, _REAL[real]), self.tasks, self.updates)
