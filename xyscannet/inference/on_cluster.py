"""Restore files on a Ray cluster: each photograph, and each segment of a clip, is a unit of work."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import xyscannet
from xyscannet import ops
from xyscannet.addresses import exists
from xyscannet.errors import InputError, UnavailableError
from xyscannet.files import remove_leftovers, shown
from xyscannet.inference.clip_runs import OpenedClip
from xyscannet.inference.clips import SegmentTimes
from xyscannet.inference.cluster import MOST_LOSSES, Cluster
from xyscannet.inference.cluster_units import Failure, Joining, Opening, Part, Unit, Whole, worker
from xyscannet.inference.jobs import Job
from xyscannet.inference.memory import available_memory
from xyscannet.inference.plan import ImagePlan, pick_dtype
from xyscannet.inference.records import Record, Settings


@dataclass(frozen=True)
class Worker:
    """What one worker of a cluster found where it runs.

    Attributes:
        device: its name, e.g. that of its GPU.
        dtype: what `pick_dtype` says there.
        scan: the scan backend that runs there.
        memory: bytes that it can allocate, all of its machine's.
    """

    host: str
    device: str
    dtype: torch.dtype
    scan: str
    memory: int
    version: str


def look(cluster: Cluster, scan: str = "auto") -> Worker:
    """Ask a worker what it has.

    Raises:
        UnavailableError: the scan backend does not run there, or another version of xyscannet is installed.
    """
    found: Worker = cluster.ask(partial(_look, cluster.device, scan))
    if found.version != xyscannet.__version__:
        raise UnavailableError(
            f"{found.host} has xyscannet {found.version}, this machine {xyscannet.__version__}: install the same"
        )
    return found


def _look(device_type: str, scan: str) -> Worker:
    device = torch.device(device_type)
    if scan != "auto":
        ops.use_backend(scan)
    active = ops.active_backend(device_type)
    if scan not in ("auto", active):
        raise UnavailableError(f"the scan backend {scan} does not run on {device_type}")
    name = torch.cuda.get_device_name(device) if device_type == "cuda" else platform.machine()
    memory = int(available_memory(device))
    return Worker(socket.gethostname(), name, pick_dtype(device), active, memory, xyscannet.__version__)


@dataclass(frozen=True)
class Placed:
    """What readies a worker: a network goes to its device, on its threads, with the run's scan backend."""

    model: nn.Module
    device: str
    threads: int
    scan: str

    def ready(self) -> nn.Module:
        """The network, in a worker. Raises UnavailableError where the scan backend does not run there."""
        ops.use_backend(self.scan)
        if ops.active_backend(self.device) != self.scan:
            raise UnavailableError(f"the scan backend {self.scan} does not run on {socket.gethostname()}")
        torch.set_num_threads(self.threads)
        return self.model.to(self.device)


def run_on_cluster(
    cluster: Cluster,
    jobs: Sequence[Job],
    model: nn.Module,
    settings: Settings,
    *,
    scan: str,
    finished: Callable[[Record], None],
    progress: Callable[[Job, float], None] | None = None,
) -> None:
    """Restore files on the workers of a cluster; see `run_jobs`, whose records and results these are.

    A photograph or segment whose worker is lost is restored by another. Files are written in one step, so that none is
    ever half there, whatever is lost or interrupted; one that was written before its worker was lost is kept.

    Raises ConfigError while another run makes the same clip.

    Args:
        model: on the CPU; the workers get it through Ray's object store.
        scan: the scan backend that every worker runs.
        progress: called with each photograph at its end, and with a clip at the end of each segment.
    """
    for job in jobs:
        if job.skip:
            finished(Record(job, "skipped"))
    run = _Run([job for job in jobs if not job.skip], finished, progress)
    relative = any(not name.is_absolute() for job in run.left.values() for name in (job.input, job.output))
    make = partial(worker, Placed(model, cluster.device, cluster.cpus, scan).ready, settings)
    try:
        cluster.run(
            make,
            [Opening(job) if _in_segments(job) else Whole(job) for job in run.left.values()],
            finished=run.take,
            lost=run.lost,
            wanted=run.wanted,
            folder=os.getcwd() if relative else None,
        )
    except KeyboardInterrupt:
        # Ray drops the result of a file that its worker finished after the interruption had been sent.
        for job in run.left.values():
            if not settings.overwrite and not job.error and exists(job.output):
                finished(Record(job, "done"))
        raise
    finally:
        run.close()


def _in_segments(job: Job) -> bool:
    """Whether a job is a clip whose segments can lie where all workers reach them, beside its output."""
    return job.is_clip and not job.error and isinstance(job.output, Path) and isinstance(job.input, Path)


class _Run:
    """What became of the units so far, and with it of the jobs; `left` are those without a record, by output."""

    def __init__(
        self,
        jobs: Sequence[Job],
        finished: Callable[[Record], None],
        progress: Callable[[Job, float], None] | None,
    ) -> None:
        self.left = {job.output: job for job in jobs}
        self._finished, self._progress = finished, progress
        self._losses: Counter[Path] = Counter()
        self._clips: dict[Path, _Clip] = {}

    def lost(self, unit: Unit) -> None:
        self._losses[unit.job.output] += 1
        if isinstance(unit.job.output, Path):
            remove_leftovers(unit.job.output.parent)

    def wanted(self, unit: Unit) -> bool:
        """Whether its job is not over yet, as a clip's is when a segment fails."""
        return unit.job.output in self.left

    def take(self, unit: Unit, result: Any) -> list[Unit] | None:
        """A unit's result; returns the units that it makes possible."""
        job, key = unit.job, unit.job.output
        if not self.wanted(unit):
            return None
        if result is None:
            reason = f"given up: {MOST_LOSSES} workers were lost over it, perhaps for want of memory"
            result = Failure(f"{shown(job.input)}: {reason}")
        if isinstance(result, Failure):
            clip = self._clips.get(key)
            return self._end(key, Record(job, "failed", plan=clip and clip.plan, error=result.error))
        if isinstance(unit, Whole):
            return self._end(key, result)
        if isinstance(unit, Opening):
            self._clips[key] = clip = _Clip(*result)
            try:
                clip.notes += clip.stack.enter_context(clip.opened.held())
            except InputError as error:
                return self._end(key, Record(job, "failed", plan=clip.plan, error=str(error)))
            return [Part(job, clip.opened, segment) for segment in clip.opened.clip.segments]
        clip = self._clips[key]
        if isinstance(unit, Part):
            clip.parts.append(result[0])
            clip.notes += result[1]
            clip.frames += unit.segment.frames
            self._tell(job, clip.frames / clip.opened.clip.frames)
            over = len(clip.parts) == len(clip.opened.clip.segments)
            return [Joining(job, clip.opened)] if over else None
        times = clip.opened.times(clip.parts)
        notes = tuple(dict.fromkeys([*clip.notes, *result]))
        return self._end(key, Record(job, "done", times.seconds, clip.plan, notes, clip=times))

    def _end(self, key: Path, record: Record) -> None:
        losses = self._losses[key]
        if losses and record.status == "done":
            note = f"{losses} worker{'s were' if losses > 1 else ' was'} lost over it before"
            record = replace(record, notes=(*record.notes, note))
        self._tell(self.left[key], 1.0)
        if key in self._clips:
            self._clips.pop(key).stack.close()
        del self.left[key]
        self._finished(record)

    def close(self) -> None:
        """Let go of what is held for clips that are not over."""
        for clip in self._clips.values():
            clip.stack.close()

    def _tell(self, job: Job, share: float) -> None:
        if self._progress:
            self._progress(job, share)


@dataclass
class _Clip:
    """A clip whose segments are at work."""

    opened: OpenedClip
    plan: ImagePlan
    notes: list[str] = field(default_factory=list)
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    parts: list[SegmentTimes] = field(default_factory=list)
    frames: int = 0
