"""Decide, before any work, how an image is restored: as a whole if memory allows, else in tiles."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.models import XYScanNetConfig
from xyscannet.ops.hardware import bf16_is_fast

OVERLAP = 96  # pixels that neighbouring tiles share
MIN_TILE = 64  # pixels
CPU_SHARE, GPU_SHARE = 0.75, 0.9  # of the free memory that one image's restoration may take
IMAGE_BYTES = 48  # per pixel: an image as it is read, as float32 input and result, and as it is written
MIB = 2**20


@dataclass(frozen=True)
class ImagePlan:
    """How one image is restored.

    Attributes:
        whole: in one pass of the network; else in tiles.
        tile: height and width of a pass, in pixels; all tiles of an image have this size.
        grid: number of tiles down and across.
        overlap: pixels that neighbouring tiles share at least.
        memory_bytes: estimated peak of the network's own memory in one pass.
        reason: why, for people.
    """

    whole: bool
    tile: tuple[int, int]
    grid: tuple[int, int]
    overlap: int
    memory_bytes: int
    reason: str

    def describe(self) -> str:
        """`whole`, or e.g. `3 x 2 tiles of 1376 x 1024, overlap 96`; widths before heights."""
        if self.whole:
            return "whole"
        (rows, columns), (height, width) = self.grid, self.tile
        return f"{columns} x {rows} tiles of {width} x {height}, overlap {self.overlap}"


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
) -> ImagePlan:
    """Plan the restoration of a (height, width) image.

    Args:
        tile: "auto" takes the whole image if its estimated peak fits into memory, else the largest tiles that
            do; "none" always takes the whole image; a number is the longest side of a tile in pixels.
        memory: bytes that the restoration may take; by default a share of what is free on `device` now.
        sharing: number of networks among which they are divided.

    Raises:
        ConfigError: `tile` is neither of these.
        InputError: not even the smallest tiles fit.
    """
    device = torch.device(device)

    def peak(tile_height: int, tile_width: int) -> int:
        return peak_bytes(tile_height, tile_width, config, dtype=dtype, device=device)

    whole = ImagePlan(True, (height, width), (1, 1), 0, peak(height, width), "")
    if tile == "none":
        return _because(whole, "tiles are switched off")
    if isinstance(tile, int):
        return _in_tiles_of(tile, whole, peak)
    if tile != "auto":
        raise ConfigError(f"tile must be auto, none or a number of pixels, not {tile!r}")
    if memory is None:
        memory = _allowance(height * width, device)
    memory //= sharing
    need, have = f"{mebibytes(whole.memory_bytes)}", f"{mebibytes(memory)}"
    if whole.memory_bytes <= memory:
        return _because(whole, f"needs {need}, may take {have}")
    grid = _smallest_grid(height, width, lambda h, w: peak(h, w) <= memory)
    if grid is None:
        raise InputError(
            f"{width} x {height} pixels need {need} as a whole and {mebibytes(peak(MIN_TILE, MIN_TILE))} in the "
            f"smallest tiles, but only {have} may be used: free some memory or take a smaller network"
        )
    return _tiled(whole, grid, OVERLAP, peak, f"as a whole it needs {need}, but may take {have}")


def peak_bytes(
    height: int, width: int, config: XYScanNetConfig, *, dtype: torch.dtype, device: torch.device | str
) -> int:
    """Estimated peak memory, in bytes, of one pass of the network over a (height, width) image."""
    multiple = config.size_multiple
    pixels = math.ceil(height / multiple) * math.ceil(width / multiple) * multiple**2
    return int(pixels * bytes_per_pixel(config, dtype))


def bytes_per_pixel(config: XYScanNetConfig, dtype: torch.dtype) -> float:
    """Peak memory of one pass over its number of pixels.

    The peak lies at level 1, in whichever holds most: the Intra-Scanner of a decoder block, whose tensors go with
    the inner width and the states; the fusion at the skip; or a feed-forward part. The coefficients count numbers
    of the working type per pixel and channel. They were fitted to the growth of resident memory on a CPU (C = 8,
    16, 24, 48; expand 2 and 4; 16 and 64 states; both directions; FFN expansion 1 and 4; 256 x 256 to 384 x 512)
    and meet each measurement within 6 %. Under autocast some tensors stay float32: 0.6 of the bytes.
    """
    directions = 2 if config.bidirectional else 1
    states = directions * 3.4 * config.d_state
    scan = config.width * (11.6 + directions * (7.4 + 4 * config.expand)) + states
    fusion = 19 * config.width
    feed_forward = config.width * (10 + 7 * config.ffn_expansion)
    numbers = max(scan if "intra" in config.scanners else 0, fusion, feed_forward) + 20
    return numbers * 4 * (1.0 if dtype == torch.float32 else 0.6)


def mebibytes(count: int) -> str:
    """A number of bytes for people: `870 MiB`, `3.2 GiB`."""
    return f"{max(count / MIB, 1):.0f} MiB" if count < 1000 * MIB else f"{count / MIB / 1024:.1f} GiB"


def _allowance(pixels: int, device: torch.device) -> int:
    """What a pass may take: a share of the free memory that the image's own copies leave."""
    if device.type != "cpu":
        return int(available_memory(device) * GPU_SHARE)
    return max(int((available_memory(device) - pixels * IMAGE_BYTES) * CPU_SHARE), 0)


def _because(plan: ImagePlan, reason: str) -> ImagePlan:
    return ImagePlan(plan.whole, plan.tile, plan.grid, plan.overlap, plan.memory_bytes, reason)


def _in_tiles_of(side: int, whole: ImagePlan, peak: Callable[[int, int], int]) -> ImagePlan:
    if side < MIN_TILE:
        raise ConfigError(f"a tile must be at least {MIN_TILE} pixels, not {side}")
    height, width = whole.tile
    overlap = min(OVERLAP, side // 4 // 4 * 4)
    rows, columns = (
        max(1, math.ceil((n - overlap) / (side - overlap))) if n > side else 1 for n in whole.tile
    )
    if rows == columns == 1:
        return _because(whole, f"not larger than the tile asked for, {side}")
    # a size rounded up to a multiple of 4 may exceed the side asked for
    rows += spans(height, rows, overlap)[0] > side
    columns += spans(width, columns, overlap)[0] > side
    return _tiled(whole, (rows, columns), overlap, peak, f"tiles of at most {side} were asked for")


def _tiled(
    whole: ImagePlan, grid: tuple[int, int], overlap: int, peak: Callable[[int, int], int], reason: str
) -> ImagePlan:
    tile = tuple(spans(length, count, overlap)[0] for length, count in zip(whole.tile, grid))
    return ImagePlan(False, tile, grid, overlap, peak(*tile), reason)


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


def available_memory(device: torch.device | str) -> int:
    """Bytes that can be allocated on a device now."""
    device = torch.device(device)
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min(_system_memory(), _cgroup_memory(), _address_space())


def _system_memory() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:  # no Linux: half of what the machine has
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30


def _cgroup_memory(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """What the control groups (version 2) that this process lives in still allow."""
    try:
        path = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return math.inf
    left: float = math.inf
    group = root / path.strip("/")
    for folder in (group, *group.parents):
        try:
            limit = (folder / "memory.max").read_text().strip()
            if limit != "max":
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                used = int((folder / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
                left = min(left, max(int(limit) - used, 0))
        except (OSError, ValueError):
            pass
        if folder == root:
            break
    return left


def _address_space() -> float:
    """What a limit on the process's address space (`ulimit -v`) still allows."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return math.inf
        return max(limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize(), 0)
    except (ImportError, OSError):
        return math.inf
