"""Restoring images with a trained network: the plan, one image, many files."""

from __future__ import annotations

from xyscannet.inference.clips import SegmentTimes, restore_segment
from xyscannet.inference.jobs import Job, Jobs, make_jobs
from xyscannet.inference.memory import available_memory
from xyscannet.inference.plan import (
    ImagePlan,
    pick_device,
    pick_devices,
    pick_dtype,
    plan_image,
)
from xyscannet.inference.records import Record, Settings
from xyscannet.inference.restore import restore
from xyscannet.inference.run import run_jobs
from xyscannet.inference.scales import SCALES, checked_scales, restore_at_scales

__all__ = [
    "SCALES",
    "ImagePlan",
    "Job",
    "Jobs",
    "Record",
    "SegmentTimes",
    "Settings",
    "available_memory",
    "checked_scales",
    "make_jobs",
    "pick_device",
    "pick_devices",
    "pick_dtype",
    "plan_image",
    "restore",
    "restore_at_scales",
    "restore_segment",
    "run_jobs",
]
