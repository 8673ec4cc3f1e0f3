"""Restore files on a Ray cluster: each file is a unit of work."""

from __future__ import annotations

import os
import platform
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

import xyscannet
from xyscannet import ops
from xyscannet.errors import UnavailableError
from xyscannet.images.formats import shown
from xyscannet.inference.cluster import MOST_LOSSES, Cluster, pause_point
from xyscannet.inference.jobs import Job
from xyscannet.inference.plan import available_memory, pick_dtype
from xyscannet.inference.run import Record, Settings, run_jobs


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


@dataclass(frozen=True)
class _Restorer:
    placed: Placed
    settings: Settings

    def __call__(self) -> Callable[[Job, int], Record]:
        return partial(_restore, self.placed.ready(), self.settings)


def _restore(model: nn.Module, settings: Settings, job: Job, losses: int) -> Record:
    if losses and not settings.overwrite and os.path.lexists(job.output):
        return Record(job, "done")  # by the worker that was lost
    records: list[Record] = []
    run_jobs([job], model, settings, finished=records.append, progress=pause_point)
    return records[0]


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

    A file whose worker is lost is restored by another. Files are written in one step, so that none is ever half
    there, whatever is lost or interrupted, and one that was written before its worker was lost is kept.

    Args:
        model: on the CPU; the workers get it through Ray's object store.
        scan: the scan backend that every worker runs.
        progress: called with each file at its end.
    """
    for job in jobs:
        if job.skip:
            finished(Record(job, "skipped"))
    work = [job for job in jobs if not job.skip]
    losses: Counter[int] = Counter()
    left = dict(enumerate(work))

    def take(index: int, record: Record | None) -> None:
        job = work[index]
        if record is None:
            reason = f"given up: {MOST_LOSSES} workers were lost over it, perhaps for want of memory"
            record = Record(job, "failed", error=f"{shown(job.input)}: {reason}")
        elif losses[index]:
            note = f"{losses[index]} worker{'s were' if losses[index] > 1 else ' was'} lost over it before"
            record = replace(record, notes=(*record.notes, note))
        if progress:
            progress(job, 1.0)
        del left[index]
        finished(record)

    relative = any(not Path(name).is_absolute() for job in work for name in (job.input, job.output))
    make = _Restorer(Placed(model, cluster.device, cluster.cpus, scan), settings)
    try:
        cluster.run(
            make,
            work,
            finished=take,
            lost=lambda index: losses.update([index]),
            folder=os.getcwd() if relative else None,
        )
    except KeyboardInterrupt:
        # Ray drops the result of a file that its worker finished after the interruption had been sent.
        for job in left.values():
            if not settings.overwrite and not job.error and os.path.lexists(job.output):
                finished(Record(job, "done"))
        raise
