"""What a worker of a cluster does with each kind of unit: a photograph; a clip's opening, one segment, its joining."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from xyscannet.addresses import exists
from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.inference.clip_runs import OpenedClip, open_clip
from xyscannet.inference.clips import SegmentTimes
from xyscannet.inference.cluster import pause_point
from xyscannet.inference.jobs import Job
from xyscannet.inference.plan import ImagePlan
from xyscannet.inference.records import Record, Settings, explained
from xyscannet.inference.run import plan_of, run_jobs
from xyscannet.video import Segment


@dataclass(frozen=True)
class Failure:
    """Why a unit came to nothing: the text of its job's record."""

    error: str


@dataclass(frozen=True)
class Unit:
    """A piece of a job."""

    job: Job

    def do(self, model: nn.Module, settings: Settings, losses: int) -> Any:
        """The unit's result, in a worker; `losses` workers were lost over it before."""
        raise NotImplementedError


@dataclass(frozen=True)
class Whole(Unit):
    """A photograph, to a `Record`."""

    def do(self, model: nn.Module, settings: Settings, losses: int) -> Record:
        if losses and not settings.overwrite and exists(self.job.output):
            return Record(self.job, "done")  # by the worker that was lost
        records: list[Record] = []
        run_jobs([self.job], model, settings, finished=records.append, progress=pause_point)
        return records[0]


@dataclass(frozen=True)
class Opening(Unit):
    """A clip's plan, to an `OpenedClip` and how each frame is restored."""

    def do(self, model: nn.Module, settings: Settings, losses: int) -> tuple[OpenedClip, ImagePlan]:
        opened = open_clip(self.job.input, self.job.output, model, settings)
        return opened, plan_of(opened.clip.info.height, opened.clip.info.width, model, settings)


@dataclass(frozen=True)
class Part(Unit):
    """A clip's segment, to `SegmentTimes` and notes."""

    opened: OpenedClip
    segment: Segment

    def do(self, model: nn.Module, settings: Settings, losses: int) -> tuple[SegmentTimes, tuple[str, ...]]:
        notes: list[str] = []
        times = self.opened.restore(self.segment, model, settings, tell=notes.append, progress=pause_point)
        return times, tuple(notes)


@dataclass(frozen=True)
class Joining(Unit):
    """A clip's output of all its segments, to notes."""

    opened: OpenedClip

    def do(self, model: nn.Module, settings: Settings, losses: int) -> tuple[str, ...]:
        if losses and not settings.overwrite and exists(self.job.output):
            shutil.rmtree(self.opened.folder, ignore_errors=True)
            return ()  # by the worker that was lost
        return self.opened.join(settings)


def worker(ready: Callable[[], nn.Module], settings: Settings) -> Callable[[Unit, int], Any]:
    """A worker that is ready to do units; see `Cluster.run`."""
    return partial(_do, ready(), settings)


def _do(model: nn.Module, settings: Settings, unit: Unit, losses: int) -> Any:
    try:
        return unit.do(model, settings, losses)
    except (ConfigError, UnavailableError):
        raise
    except Exception as error:
        return Failure(explained(unit.job, error))
