"""How much memory a pass of the network takes, and how much there is."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from xyscannet.control_groups import memory_left
from xyscannet.models import XYScanNetConfig
from xyscannet.models.strips import LEAST, runs_in_strips
from xyscannet.ops.backends import own_backend
from xyscannet.ops.hardware import bf16_is_fast

MIB = 2**20
# Gaps in glibc's heap, which tensors below 32 MiB leave: at most so much after whole maps; after strips so much and so
# many times a strip. Fewer where steps keep to the cache.
HEAP_SLACK, STRIPS_SLACK, STRIP_SLACK = 128 * MIB, 40 * MIB, 17
TILED_SLACK = 48 * MIB, 8 * MIB, 8


def peak_bytes(
    height: int,
    width: int,
    config: XYScanNetConfig,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    strips: int = 0,
    as_made: bool = True,
) -> int:
    """Estimated peak memory, in bytes, of one pass of the network over a (height, width) image.

    `strips` is channels x pixels of the strips that it works through, 0 for none; `as_made` as for `plan_image`.

    What lives at the peak is counted exactly (see `live_numbers`, `live_numbers_in_strips`); on a CPU gaps in the heap
    come on top, in float32 up to 48 MiB, in strips 8 MiB and eight times a strip, and where the processor has no
    bfloat16, 15 % for torch's conversions. Both vary from run to run: of an embedded network's peak by some 15 %, of
    smaller peaks by more.
    """
    multiple = config.size_multiple
    height, width = (math.ceil(n / multiple) * multiple for n in (height, width))
    tiled = as_made and runs_in_strips(config) and steps_in_cache(dtype, device)
    if strips:
        numbers = live_numbers_in_strips(height, width, config, strips, tiled)
    else:
        numbers = live_numbers(config, tiled) * height * width
    live = numbers * dtype.itemsize + 12 * height * width  # the result is float32
    if torch.device(device).type == "cpu":
        live *= 1.15 if dtype == torch.bfloat16 and not bf16_is_fast(device) else 1.0
        strip = min(strips, config.width * height * width) * dtype.itemsize
        heap, base, times = TILED_SLACK if tiled else (HEAP_SLACK, STRIPS_SLACK, STRIP_SLACK)
        slack = base + times * strip if strips else heap
        live += min(1.2 * live, slack)
    return int(live)


def steps_in_cache(dtype: torch.dtype, device: torch.device | str) -> bool:
    """Whether the steps of blocks keep to the cache what they make in between (`xyscannet.ops.blocks`)."""
    return torch.device(device).type == "cpu" and dtype == torch.float32 and own_backend("cpu") == "cpu"


def live_numbers(config: XYScanNetConfig, tiled: bool = False) -> float:
    """Numbers a pixel of the image that are alive at the peak of a forward over the whole of it.

    The peak lies at level 1: in the Intra-Scanner of a decoder block, before the scan returns; in the Inter-Scanner or
    the feed-forward part after it; or in a fusion that concatenates all levels. In multiples of the width C, `held`
    counts the three levels, both skips, the decoder's input and, where a step's parts are maps, the two of the block's
    own. `tiled` says that they are not.
    """
    width, directions = config.width, 1 + config.bidirectional
    fusion = 15.75 * width if config.fusion == "aff" else 0
    if tiled:
        held = 5.25 + (config.decoder_blocks[0] > 1)
        copied = 8 * config.expand / 2 if config.bidirectional else 0  # of what in_proj makes
        kinds = {"intra": 1 + (4 + 2 * directions) * config.expand / 2 + copied, "inter": 3}
        # The second scanner's block keeps its input beside what the first has made of it.
        return max(*(width * (held + i + kinds[kind]) for i, kind in enumerate(config.scanners)), fusion)
    held = 7.25 + (config.decoder_blocks[0] > 1)
    feed_forward = width * (held + max(1 + 3 * config.ffn_expansion, 5))  # or where a VSSM splits
    scan = 0.0
    if "intra" in config.scanners:
        copied = 2 * config.bidirectional  # the branches, once more for the way back
        scan = width * (held + 2 + copied) + 2 * directions * _branch(config)
    return max(scan, feed_forward, fusion)


def _branch(config: XYScanNetConfig) -> float:
    """Numbers a pixel that one branch of the mixer has in one direction: xz, u, delta, y; delta's rank, B and C."""
    inner = config.expand * config.width / 2
    return 5 * inner + math.ceil(config.width / 2 / 16) + 2 * config.d_state


def live_numbers_in_strips(
    height: int, width: int, config: XYScanNetConfig, elements: int, tiled: bool = False
) -> float:
    """Numbers that are alive at the peak of a forward in strips of `elements` over a (height, width) image.

    Of maps there are the three levels and a smaller copy of the first at the fusions, or the residual stream and what
    a scanner keeps: the columns' part (as wide as the mixer's inner half in a folded network), or all that it reads.
    What a strip makes comes on top, at the blocks or where the map is resized for the last level; `tiled` as in
    `live_numbers`.
    """
    channels, pixels = config.width, height * width
    directions = 1 + config.bidirectional
    step = channels * (2.0 if tiled else 3 + 3 * config.ffn_expansion)
    kept = channels if "inter" in config.scanners else 0.0
    if "intra" in config.scanners:
        inner = config.expand * channels / 2
        kept = max(kept, inner, channels / 2)
        made = channels + inner * (8 if config.bidirectional else 3)
        if not tiled:
            made = channels * (3.5 + config.bidirectional) + directions * _branch(config)
        step = max(step, made)
    ways = (height, width), (width, height)
    strip = max(_window(*way, channels, elements, halo=1) for way in ways) * step
    fusing = 2.0 * channels * pixels + 8 * min(elements, channels * pixels)
    resizing = channels * (1.5 * pixels + 3.9 * _window(height, width, channels, elements, halo=2))
    return max(fusing, resizing, (channels + kept) * pixels + strip)


def _window(length: int, across: int, channels: int, elements: int, halo: int) -> int:
    """Pixels of a strip at level 1 with its halo."""
    size = max(LEAST * halo, elements // (channels * across))
    return min(size + 2 * halo, length) * across


def mebibytes(count: int) -> str:
    """A number of bytes for people: `870 MiB`, `3.2 GiB`."""
    return f"{max(count / MIB, 1):.0f} MiB" if count < 1000 * MIB else f"{count / MIB / 1024:.1f} GiB"


def memory_is_out(error: BaseException) -> bool:
    """Whether the error says that there is too little memory, of the GPU or of the machine."""
    told = ("out of memory", "not enough memory", "allocate memory", "_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in told)
    )


def available_memory(device: torch.device | str) -> int:
    """Bytes that can be allocated on a device now."""
    device = torch.device(device)
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return min(_system_memory(), memory_left(), _address_space())


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
