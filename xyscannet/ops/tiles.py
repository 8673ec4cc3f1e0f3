"""How the compiled CPU kernels see tensors: descriptors, tasks, and tiles of a sequence in the cache.

A tensor of one branch is seven 64-bit integers: address, element code (-1 if absent), and byte strides (outer row,
inner row, step along the sequence, channel, block of channels). A task is a group of rows of one branch and one block
of channels. A tile is `TILE` steps of a block in the real type of the computation, channels on the lanes.
"""

from __future__ import annotations

import numpy as np

from xyscannet.ops.simd import (
    ITEM_SIZE,
    LANES,
    inner,
    load,
    prefetch,
    read_lanes,
    read_one,
    store,
    write_lanes,
    write_one,
)

TILE = 16
BLOCK = 96
ADDRESS, CODE, OUTER, INNER, STEP, CHANNEL, CHUNK = range(7)


def numbers(start: int, stop: int) -> tuple[np.int64, ...]:
    """start ... stop - 1, to call compiled functions with: Numba compiles one anew for every plain constant."""
    return tuple(np.int64(number) for number in range(start, stop))


ZERO, ONE = numbers(0, 2)


@inner
def split_task(task, groups, blocks):
    """The branch, block of channels and group of rows of a task."""
    return task // (groups * blocks), (task // groups) % blocks, task % groups


@inner
def address_of(tensors, which, place, first):
    """The address of step `first` of a row; place = (branch, outer row, inner row, block of channels)."""
    branch, outer, inner, chunk = place
    return (
        tensors[branch, which, ADDRESS]
        + outer * tensors[branch, which, OUTER]
        + inner * tensors[branch, which, INNER]
        + first * tensors[branch, which, STEP]
        + chunk * tensors[branch, which, CHUNK]
    )


@inner
def load_tile(tile, start, width, tensors, which, place, first, steps, lanes):
    """Bring steps first .. first + steps - 1 into rows `start` ... of `width` of the tile; lanes beyond are zero."""
    address = address_of(tensors, which, place, first)
    code, step, channel = (
        tensors[place[0], which, CODE],
        tensors[place[0], which, STEP],
        tensors[place[0], which, CHANNEL],
    )
    size = ITEM_SIZE[code]
    for i in range(start * width, (start + steps) * width, width):
        if channel == size:
            for e in range(0, width, LANES):  # beyond the lanes nothing is read and zero is stored
                store(tile, i + e, read_lanes(tile, code, address + e * size, lanes - e))
        else:
            for e in range(lanes):
                tile[i + e] = read_one(tile, code, address + e * channel)
            for e in range(lanes, width):
                tile[i + e] = 0.0
        address += step


@inner
def store_tile(tile, width, tensors, which, place, first, steps, lanes):
    """Write the tile to steps first .. first + steps - 1 of a row."""
    address = address_of(tensors, which, place, first)
    code, step, channel = (
        tensors[place[0], which, CODE],
        tensors[place[0], which, STEP],
        tensors[place[0], which, CHANNEL],
    )
    size = ITEM_SIZE[code]
    for i in range(0, steps * width, width):
        if channel == size:
            for e in range(0, lanes, LANES):
                write_lanes(code, address + e * size, load(tile, i + e), lanes - e)
        else:
            for e in range(lanes):
                write_one(code, address + e * channel, tile[i + e])
        address += step


@inner
def prefetch_tile(tensors, which, place, first, steps, lanes):
    """Ask for the cache lines of a tile that is loaded or stored soon; nothing for an absent tensor."""
    code, step, channel = (
        tensors[place[0], which, CODE],
        tensors[place[0], which, STEP],
        tensors[place[0], which, CHANNEL],
    )
    if code < 0:
        return
    address = address_of(tensors, which, place, first)
    size = ITEM_SIZE[code]
    if channel == size:
        for _ in range(steps):
            for offset in range(0, lanes * size, 64):
                prefetch(address + offset)
            address += step
    else:
        for e in range(lanes):
            prefetch(address + e * channel)
