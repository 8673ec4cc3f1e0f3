"""How the compiled CPU kernels see tensors: descriptors, tasks, and tiles of a sequence in the cache.

A tensor of one branch is seven 64-bit integers: address, element code (-1 if absent), and byte strides (outer row,
inner row, step along the sequence, channel, block of channels). A task is a group of rows of one branch and one block
of channels. A tile is `TILE` steps of a block in the real type of the computation, channels on the lanes.
"""

from __future__ import annotations

from numba import njit

from xyscannet.ops.simd import ITEM_SIZE, LANES, load, read_lanes, read_one, store, write_lanes, write_one

TILE = 16
BLOCK = 96
ADDRESS, CODE, OUTER, INNER, STEP, CHANNEL, CHUNK = range(7)


@njit
def split_task(task, groups, blocks):
    """The branch, block of channels and group of rows of a task."""
    return task // (groups * blocks), (task // groups) % blocks, task % groups


@njit(inline="always")
def row_of(tensor, outer, inner, block):
    """The address of the first step of a row."""
    return tensor[ADDRESS] + outer * tensor[OUTER] + inner * tensor[INNER] + block * tensor[CHUNK]


@njit
def load_tile(tile, width, tensor, row, first, steps, lanes):
    """Bring `steps` x `lanes` elements into rows of `width`; lanes beyond are zero."""
    code = tensor[CODE]
    size = ITEM_SIZE[code]
    for t in range(steps):
        address = row + (first + t) * tensor[STEP]
        if tensor[CHANNEL] == size:
            for e in range(0, lanes, LANES):
                store(tile, t * width + e, read_lanes(tile, code, address + e * size, lanes - e))
        else:
            for e in range(lanes):
                tile[t * width + e] = read_one(tile, code, address + e * tensor[CHANNEL])
            for e in range(lanes, width):
                tile[t * width + e] = 0.0


@njit
def store_tile(tile, width, tensor, row, first, steps, lanes):
    """Write `steps` x `lanes` elements of the tile to the tensor."""
    code = tensor[CODE]
    size = ITEM_SIZE[code]
    for t in range(steps):
        address = row + (first + t) * tensor[STEP]
        if tensor[CHANNEL] == size:
            for e in range(0, lanes, LANES):
                write_lanes(code, address + e * size, load(tile, t * width + e), lanes - e)
        else:
            for e in range(lanes):
                write_one(code, address + e * tensor[CHANNEL], tile[t * width + e])
