"""Restoring images with a trained network: the plan, one image, many files."""

from __future__ import annotations

from xyscannet.inference.jobs import Job, Jobs, make_jobs
from xyscannet.inference.plan import (
    ImagePlan,
    available_memory,
    pick_device,
    pick_devices,
    pick_dtype,
    plan_image,
)
from xyscannet.inference.restore import restore
from xyscannet.inference.run import Record, Settings, run_jobs

__all__ = [
    "ImagePlan",
    "Job",
    "Jobs",
    "Record",
    "Settings",
    "available_memory",
    "make_jobs",
    "pick_device",
    "pick_devices",
    "pick_dtype",
    "plan_image",
    "restore",
    "run_jobs",
]
