"""Decide, before any work, how an image is restored: as a whole if memory allows, else in strips, else in tiles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.inference.graphs import without_graphs
from xyscannet.inference.memory import available_memory, mebibytes, peak_bytes
from xyscannet.models import XYScanNetConfig
from xyscannet.models.strips import ELEMENTS, FEW_ELEMENTS, may_be_taken_apart, runs_in_strips
from xyscannet.ops.hardware import bf16_is_fast

OVERLAP = 96  # pixels that neighbouring tiles share
MIN_TILE = 64  # pixels
# Pixels from which CPUs take strips, which are as fast there, with half the memory and less.
BETTER_IN_STRIPS = 2**17
CPU_SHARE, GPU_SHARE = 0.75, 0.9  # of the free memory that one image's restoration may take
SCALES_BYTES = 40  # per pixel: an image in float32, restored, at smaller scales and as the next pass begins
IMAGE_BYTES = SCALES_BYTES + 24  # and as it is read and written, and as the files beside it are


@dataclass(frozen=True)
class ImagePlan:
    """How one image is restored.

    Attributes:
        strips: channels x pixels of the strips of feature maps that a pass of the network works through
            (`xyscannet.models.strips`), which gives the same in less memory; 0 where it takes whole maps.
        tile: height and width of a pass, in pixels; all tiles of an image have this size.
        grid: number of tiles down and across; (1, 1) is the whole image.
        overlap: pixels that neighbouring tiles share at least.
        memory_bytes: estimated peak of the network's own memory in one pass.
        reason: why, for people.
    """

    strips: int
    tile: tuple[int, int]
    grid: tuple[int, int]
    overlap: int
    memory_bytes: int
    reason: str

    @property
    def mode(self) -> str:
        """`whole` and `strips`, which give the same, or `tiles`, which is near it."""
        return "tiles" if self.grid != (1, 1) else "strips" if self.strips else "whole"

    @property
    def whole(self) -> bool:
        """The whole image at once."""
        return self.mode == "whole"

    def describe(self) -> str:
        """`whole`, `whole, in strips`, or e.g. `3 x 2 tiles of 1376 x 1024, overlap 96`; widths before heights."""
        (rows, columns), (height, width) = self.grid, self.tile
        tiles = f"{columns} x {rows} tiles of {width} x {height}, overlap {self.overlap}"
        return ("whole" if self.mode != "tiles" else tiles) + (", in strips" if self.strips else "")


def plan_image(
    height: int,
    width: int,
    config: XYScanNetConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    tile: str | int = "auto",
    memory: int | None = None,
    sharing: int = 1,
    as_made: bool = True,
) -> ImagePlan:
    """Plan the restoration of a (height, width) image.

    Args:
        tile: "auto" takes the whole image at once if its estimated peak fits into memory, else the whole image in
            strips if that fits, else the largest tiles that do, in strips; larger images on CPUs are never taken at
            once. "none" never takes tiles; a number is the longest side of a tile in pixels. Networks that scan a
            map as one sequence ("ss2d") do not run in strips.
        memory: bytes that the restoration may take; by default a share of what is free on `device` now.
        sharing: number of networks among which they are divided.
        as_made: whether the network is as it was made; one whose blocks have hooks, or were replaced, does not run in
            strips either.

    Raises:
        ConfigError: `tile` is neither of these.
        InputError: not even the smallest tiles fit.
    """
    device = torch.device(device)
    if tile not in ("auto", "none") and (isinstance(tile, bool) or not isinstance(tile, int)):
        raise ConfigError(f"tile must be auto, none or a number of pixels, not {tile!r}")
    if memory is None:
        memory = allowance(height * width, device)
    memory //= sharing

    def peak(tile_height: int, tile_width: int, strips: int) -> int:
        return peak_bytes(
            tile_height, tile_width, config, dtype=dtype, device=device, strips=strips, as_made=as_made
        )

    in_strips = as_made and runs_in_strips(config)
    whole, fast, small = (
        ImagePlan(strips, (height, width), (1, 1), 0, peak(height, width, strips), "")
        for strips in (0, ELEMENTS, FEW_ELEMENTS)
    )
    strips = fast if fast.memory_bytes <= memory else small
    least = small if in_strips else whole
    if isinstance(tile, int):
        return _in_tiles_of(tile, whole, lambda h, w: not in_strips or peak(h, w, 0) <= memory, peak)
    need, have = mebibytes(whole.memory_bytes), mebibytes(memory)
    if in_strips and device.type == "cpu" and height * width >= BETTER_IN_STRIPS:
        if fast.memory_bytes <= memory:
            need = mebibytes(fast.memory_bytes)
            return replace(fast, reason=f"as fast as at once, and needs {need}, may take {have}")
    elif whole.memory_bytes <= memory:
        return replace(whole, reason=f"needs {need}, may take {have}")
    reason = f"as a whole it needs {need}, but may take {have}"
    if in_strips and strips.memory_bytes <= memory:
        return replace(strips, reason=reason)
    if in_strips:
        reason += f"; in strips of its feature maps {mebibytes(small.memory_bytes)}"
    elif as_made:
        reason += "; a scan of the map as one sequence (ss2d) does not run in strips"
    else:
        reason += "; with hooks on its blocks, or other blocks, a network does not run in strips"
    if tile == "none":
        return replace(least, reason=f"{reason}; tiles are switched off")
    grid = _smallest_grid(height, width, lambda h, w: peak(h, w, least.strips) <= memory)
    if grid is None:
        smallest = mebibytes(peak(MIN_TILE, MIN_TILE, least.strips))
        raise InputError(
            f"{width} x {height} pixels need {mebibytes(least.memory_bytes)} and {smallest} in the smallest tiles, but "
            f"only {have} may be used: free some memory or take a smaller network"
        )
    return _tiled(least, grid, OVERLAP, peak, reason)


def plan_for(
    model: nn.Module,
    height: int,
    width: int,
    *,
    dtype: torch.dtype,
    tile: str | int = "auto",
    memory: int | None = None,
    sharing: int = 1,
) -> ImagePlan:
    """`plan_image` for a network on its device, as it is."""
    place = {"device": next(model.parameters()).device, "as_made": may_be_taken_apart(without_graphs(model))}
    given = {"dtype": dtype, "tile": tile, "memory": memory, "sharing": sharing}
    return plan_image(height, width, model.config, **place, **given)


def allowance(pixels: int, device: torch.device | str, free: int | None = None) -> int:
    """Bytes that a pass may take: a share of the free memory that the copies of so many pixels leave.

    `free` is how much that is; by default what there is on `device` now.
    """
    device = torch.device(device)
    free = available_memory(device) if free is None else free
    held, share = (IMAGE_BYTES, CPU_SHARE) if device.type == "cpu" else (SCALES_BYTES, GPU_SHARE)
    return max(int((free - pixels * held) * share), 0)


def _in_tiles_of(
    side: int, whole: ImagePlan, fits: Callable[[int, int], bool], peak: Callable[[int, int, int], int]
) -> ImagePlan:
    """Tiles of at most `side`, in strips where one does not fit as a whole."""
    if side < MIN_TILE:
        raise ConfigError(f"a tile must be at least {MIN_TILE} pixels, not {side}")
    height, width = whole.tile
    most = side // 4 * 4  # as the size of spans is a multiple of 4
    overlap = min(OVERLAP, most // 16 * 4)
    rows, columns = (math.ceil((n - overlap) / (most - overlap)) if n > side else 1 for n in whole.tile)
    tile = spans(height, rows, overlap)[0], spans(width, columns, overlap)[0]
    planned = replace(whole, strips=0 if fits(*tile) else FEW_ELEMENTS)
    if rows == columns == 1:
        reason = f"not larger than the tile asked for, {side}"
        return replace(planned, memory_bytes=peak(height, width, planned.strips), reason=reason)
    return _tiled(planned, (rows, columns), overlap, peak, f"tiles of at most {side} were asked for")


def _tiled(
    plan: ImagePlan, grid: tuple[int, int], overlap: int, peak: Callable[[int, int, int], int], reason: str
) -> ImagePlan:
    tile = tuple(spans(length, count, overlap)[0] for length, count in zip(plan.tile, grid))
    return ImagePlan(plan.strips, tile, grid, overlap, peak(*tile, plan.strips), reason)


def spans(length: int, count: int, overlap: int) -> tuple[int, list[int]]:
    """Cut `length` pixels into `count` spans of one size (a multiple of 4) that share at least `overlap` pixels.

    Returns:
        the size of every span, and where each starts.
    """
    if count == 1:
        return length, [0]
    size = min(length, math.ceil((length + (count - 1) * overlap) / count / 4) * 4)
    return size, [round(i * (length - size) / (count - 1)) for i in range(count)]


def _smallest_grid(height: int, width: int, fits: Callable[[int, int], bool]) -> tuple[int, int] | None:
    """The grid of fitting tiles that computes the fewest pixels."""
    best: tuple[int, tuple[int, int]] | None = None
    for rows in range(1, height // MIN_TILE + 2):
        tile_height = spans(height, rows, OVERLAP)[0]
        for columns in range(1, width // MIN_TILE + 2):
            tile_width = spans(width, columns, OVERLAP)[0]
            if columns > 1 and tile_width < 2 * OVERLAP:
                break
            if fits(tile_height, tile_width):
                work = rows * columns * tile_height * tile_width
                best = min(best or (work, (rows, columns)), (work, (rows, columns)))
                break
        if rows > 1 and tile_height < 2 * OVERLAP:
            break
    return best[1] if best else None


def pick_device(name: str = "auto") -> torch.device:
    """The device for a name: auto (a CUDA GPU, else the CPU), cpu, cuda, cuda:N, mps.

    Raises:
        ConfigError: no such kind of device.
        UnavailableError: this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"no such device: {name!r} (auto, cpu, cuda, cuda:N or mps)")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count <= (device.index or 0):
            found = f"{count} CUDA device{'s' * (count != 1)}" if count else "no CUDA device"
            raise UnavailableError(f"device {name} is not there: torch {torch.__version__} finds {found}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnavailableError(f"device mps is not there: torch {torch.__version__} finds no Apple GPU")
    return device


def pick_devices(names: str) -> list[torch.device]:
    """The devices for a list of names: `all` (every CUDA GPU, else the CPU), or names and numbers of GPUs with commas.

    A device that is named twice is there twice: two networks share it.

    Raises:
        ConfigError: no such kind of device, or devices of two kinds, whose results would differ.
        UnavailableError: this machine has no such device.
    """
    if names == "all":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [torch.device("cuda", index) for index in range(count)] or [torch.device("cpu")]
    parts = [part.strip() for part in names.split(",")]
    if "" in parts:
        raise ConfigError(f"devices must be all, or names with commas such as 0,1, not {names!r}")
    found = [pick_device(f"cuda:{part}" if part.isdecimal() else part) for part in parts]
    found = [torch.device("cuda", device.index or 0) if device.type == "cuda" else device for device in found]
    if len({device.type for device in found}) > 1:
        raise ConfigError(f"devices must be of one kind, not {names!r}: their results would differ")
    return found


def pick_dtype(device: torch.device) -> torch.dtype:
    """The number format for `--dtype auto`: bf16 where the hardware multiplies it fast, else fp32.

    Outputs of the two are 55 dB or more apart for the embedded weights.
    """
    return torch.bfloat16 if bf16_is_fast(device) else torch.float32
