"""How the files of a run are restored, and what became of each."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from xyscannet.errors import XYScanError
from xyscannet.files import shown
from xyscannet.inference.clip_runs import ClipTimes
from xyscannet.inference.jobs import Job
from xyscannet.inference.plan import ImagePlan
from xyscannet.video import ClipOptions

logger = logging.getLogger("xyscannet.inference")


@dataclass(frozen=True)
class Settings:
    """How every file of a run is restored and written.

    See `plan_image`, `restore_at_scales`, `images.write` and `ClipOptions`.

    `sharing` is the number of networks that share a device's memory.
    """

    dtype: torch.dtype = torch.float32
    tile: str | int = "auto"
    scales: str | int = "auto"
    ensemble: bool = False
    format: str | None = None
    quality: int | None = None
    strip_metadata: bool = False
    overwrite: bool = False
    sharing: int = 1
    clip: ClipOptions = field(default_factory=ClipOptions)


@dataclass(frozen=True)
class Record:
    """What became of a job.

    Attributes:
        status: "done", "failed", "skipped", "planned" (a dry run) or "interrupted" (not done any more).
        seconds: time the network took.
        plan: how the image was restored.
        scales: of an image that is done, the share of it that each number of scales restored; see `restore_at_scales`.
        notes: what the user should hear of, e.g. conversions.
        error: why it failed.
        clip: how the work on a clip went.
    """

    job: Job
    status: str
    seconds: float = 0.0
    plan: ImagePlan | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None
    clip: ClipTimes | None = None
    scales: Mapping[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        info, plan = self.job.info, self.plan
        return {
            "input": os.fspath(self.job.input),
            "output": os.fspath(self.job.output),
            "status": self.status,
            "seconds": round(self.seconds, 3),
            "size": [info.width, info.height] if info else None,
            "plan": plan
            and {
                "mode": plan.mode,
                "tile": [plan.tile[1], plan.tile[0]],
                "grid": [plan.grid[1], plan.grid[0]],
                "overlap": plan.overlap,
                "memory_bytes": plan.memory_bytes,
                "reason": plan.reason,
            },
            **({"scales": dict(self.scales)} if self.scales else {}),
            "notes": list(self.notes),
            "error": self.error,
            **({"clip": self.clip.to_dict()} if self.clip else {}),
        }


def explained(job: Job, error: BaseException) -> str:
    """Why a job failed, for its record."""
    if isinstance(error, XYScanError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{shown(job.input)}: not enough memory"
    logger.debug("%s", shown(job.input), exc_info=error)
    return f"{shown(job.input)}: unexpected {type(error).__name__}: {error}"
