"""What Linux's control groups leave to this process, which is how containers are bounded; versions 1 and 2.

Sources: the kernel's documentation, admin-guide/cgroup-v2 (cpu.max, memory.max) and admin-guide/cgroup-v1/memory, and
scheduler/sched-bwc (cpu.cfs_quota_us).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Files of a limit and of what is used, and the line of memory.stat that says what of it can be given up.
_MEMORY = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_NONE = 2**60  # bytes; where nothing is limited version 1 has a larger number, all the pages there could be


def processors(root: Path = ROOT, own: Path = OWN) -> float:
    """How many processors' time the process may take: 1.5 is one and a half's, inf all there are."""
    allowed: float = math.inf
    for folder in _folders("cpu", root, own):
        for quota, period in (_version_2(folder), _version_1(folder)):
            if quota > 0 and period > 0:
                allowed = min(allowed, quota / period)
    return allowed


def memory_left(root: Path = ROOT, own: Path = OWN) -> float:
    """Bytes that the process may still take, what only caches files given up; inf where nothing limits it."""
    left: float = math.inf
    for folder in _folders("memory", root, own):
        for most, used, cache in _MEMORY:
            with contextlib.suppress(OSError, ValueError):
                limit = int((folder / most).read_text())  # may be "max"
                if limit < _NONE:  # what is used takes the kernel milliseconds to sum up
                    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                    taken = int((folder / used).read_text()) - int(stat.get(cache, 0))
                    left = min(left, max(limit - taken, 0))
    return left


def _folders(controller: str, root: Path, own: Path) -> Iterator[Path]:
    """The groups that hold the process, as far as they are seen from here: a container sees its own as the root."""
    try:
        lines = own.read_text(errors="surrogateescape").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        number, names, path = line.split(":", 2)
        if number == "0":  # version 2, alone or beside version 1
            tops = [root, root / "unified"]
        elif controller in names.split(","):
            tops = [root / controller]
        else:
            continue
        for top in filter(Path.is_dir, tops):
            group = top / path.strip("/")
            for folder in (group, *group.parents):
                yield folder
                if folder == top:
                    break


def _version_2(folder: Path) -> tuple[int, int]:
    """Quota and period; (0, 0) where there is none."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (folder / "cpu.max").read_text().split()
        return int(quota), int(period)  # quota may be "max"
    return 0, 0


def _version_1(folder: Path) -> tuple[int, int]:
    with contextlib.suppress(OSError, ValueError):
        quota, period = (int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        return quota, period  # quota may be -1
    return 0, 0
