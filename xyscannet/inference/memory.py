"""How much memory a pass of the network takes, and how much there is."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from xyscannet.models import XYScanNetConfig
from xyscannet.models.strips import LEAST
from xyscannet.ops.hardware import bf16_is_fast

MIB = 2**20
# Gaps in glibc's heap, which tensors below 32 MiB leave: at most so much after whole maps; after strips so much and so
# many times a strip
HEAP_SLACK, STRIPS_SLACK, STRIP_SLACK = 128 * MIB, 40 * MIB, 17


def peak_bytes(
    height: int,
    width: int,
    config: XYScanNetConfig,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    strips: int = 0,
) -> int:
    """Estimated peak memory, in bytes, of one pass of the network over a (height, width) image.

    `strips` is channels x pixels of the strips that it works through, 0 for none.

    What lives at the peak is counted exactly (see `live_numbers`, `live_numbers_in_strips`); on a CPU gaps in the heap
    come on top, up to 128 MiB, in strips 40 MiB and seventeen times a strip, and where the processor has no bfloat16,
    15 % for torch's conversions. Both vary from run to run: below 250 MiB by more than 15 % of the peak.
    """
    multiple = config.size_multiple
    height, width = (math.ceil(n / multiple) * multiple for n in (height, width))
    if strips:
        numbers = live_numbers_in_strips(height, width, config, strips)
    else:
        numbers = live_numbers(config) * height * width
    live = numbers * (4 if dtype == torch.float32 else 2) + 12 * height * width  # the result is float32
    if torch.device(device).type == "cpu":
        live *= 1.15 if dtype == torch.bfloat16 and not bf16_is_fast(device) else 1.0
        strip = min(strips, config.width * height * width) * (4 if dtype == torch.float32 else 2)
        slack = STRIPS_SLACK + STRIP_SLACK * strip if strips else HEAP_SLACK
        live += min(1.2 * live, slack)
    return int(live)


def live_numbers(config: XYScanNetConfig) -> float:
    """Numbers a pixel of the image that are alive at the peak of a forward over the whole of it.

    The peak lies at level 1: in the Intra-Scanner of a decoder block, before the scan returns; in the feed-forward
    part after it; or in a fusion that concatenates all levels. In multiples of the width C, `held` counts the three
    levels, both skips, the decoder's input and the two maps of the block's own.
    """
    width, directions = config.width, 1 + config.bidirectional
    held = 7.25 + (config.decoder_blocks[0] > 1)
    feed_forward = width * (held + max(1 + 3 * config.ffn_expansion, 5))  # or where a VSSM splits
    fusion = 15.75 * width if config.fusion == "aff" else 0
    scan = 0.0
    if "intra" in config.scanners:
        copied = 2 * config.bidirectional  # the branches, once more for the way back
        scan = width * (held + 2 + copied) + 2 * directions * _branch(config)
    return max(scan, feed_forward, fusion)


def _branch(config: XYScanNetConfig) -> float:
    """Numbers a pixel that one branch of the mixer has in one direction: xz, u, delta, y; delta's rank, B and C."""
    inner = config.expand * config.width / 2
    return 5 * inner + math.ceil(config.width / 2 / 16) + 2 * config.d_state


def live_numbers_in_strips(height: int, width: int, config: XYScanNetConfig, elements: int) -> float:
    """Numbers that are alive at the peak of a forward in strips of `elements` over a (height, width) image.

    Of maps there are the three levels and a smaller copy of the first at the fusions, or the residual stream and what
    a scanner keeps: the columns' part (as wide as the mixer's inner half in a folded network), or all that it reads.
    What a strip makes comes on top.
    """
    channels, pixels = config.width, height * width
    directions = 1 + config.bidirectional
    step = channels * (3 + 3 * config.ffn_expansion)
    kept = channels if "inter" in config.scanners else 0.0
    if "intra" in config.scanners:
        kept = max(kept, max(config.expand, 1) * channels / 2)
        step = max(step, channels * (3.5 + config.bidirectional) + directions * _branch(config))
    ways = (height, width), (width, height)
    strip = max(_window(*way, channels, elements, halo=1) for way in ways) * step
    fusing = 2.0 * channels * pixels + 8 * min(elements, channels * pixels)
    return max(fusing, (channels + kept) * pixels + strip)


def _window(length: int, across: int, channels: int, elements: int, halo: int) -> int:
    """Pixels of a strip at level 1 with its halo."""
    size = max(LEAST * halo, elements // (channels * across))
    return min(size + 2 * halo, length) * across


def mebibytes(count: int) -> str:
    """A number of bytes for people: `870 MiB`, `3.2 GiB`."""
    return f"{max(count / MIB, 1):.0f} MiB" if count < 1000 * MIB else f"{count / MIB / 1024:.1f} GiB"


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
