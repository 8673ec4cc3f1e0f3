"""Restore many files: the next image is read and the last result is written while the network computes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from xyscannet.addresses import fetched, stored
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.files import shown
from xyscannet.images import Photo, PhotoInfo, read, write
from xyscannet.inference.clip_runs import ClipTimes, refuse_existing, restore_clip
from xyscannet.inference.graphs import CudaGraphs
from xyscannet.inference.jobs import Job
from xyscannet.inference.plan import ImagePlan, plan_image
from xyscannet.inference.precision import arithmetic
from xyscannet.inference.records import Record, Settings, explained
from xyscannet.inference.restore import restore
from xyscannet.video import probe as probe_clip


@dataclass
class _Item:
    """A job on its way through reading, restoring and writing."""

    job: Job
    photo: Photo | None = None
    plan: ImagePlan | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    clip: ClipTimes | None = None

    def fail(self, error: BaseException) -> None:
        self.error = explained(self.job, error)
        self.photo = None

    def record(self) -> Record:
        status = "failed" if self.error else "done"
        return Record(self.job, status, self.seconds, self.plan, tuple(self.notes), self.error, self.clip)


def run_jobs(
    jobs: Sequence[Job],
    model: nn.Module | Sequence[nn.Module],
    settings: Settings,
    *,
    finished: Callable[[Record], None],
    progress: Callable[[Job, float], None] | None = None,
) -> None:
    """Restore files one after another; one that fails does not stop the others.

    Several networks, each on its own device, take the files from one list: each takes the next when it is free.

    An interruption (any exception that `progress` raises or a signal handler raises here) ends the work: results
    that are complete are still written and reported, then the exception goes on. Nothing is left half written.

    Args:
        model: the network, or one for each device; a device that is given twice runs two at once.
        finished: called in this thread with the record of each job: the skipped ones, then the others in order, or
            as they become ready with several networks.
        progress: called in this thread with a job at work and the share of it that is done.

    Raises:
        ConfigError, UnavailableError: what stops every image, e.g. a missing scan backend.
    """
    for job in jobs:
        if job.skip:
            finished(Record(job, "skipped"))
    models = [model] if isinstance(model, nn.Module) else list(model)
    models = [CudaGraphs(each) if next(each.parameters()).is_cuda else each for each in models]
    with _Pipeline([job for job in jobs if not job.skip], settings, finished, len(models)) as pipeline:

        def advance(job: Job, share: float) -> None:
            pipeline.report()
            if progress:
                progress(job, share)

        if len(models) == 1:
            _work(models[0], pipeline, settings, advance)
        else:
            _side_by_side(models, pipeline, settings, advance)


def _work(
    model: nn.Module, pipeline: _Pipeline, settings: Settings, progress: Callable[[Job, float], None]
) -> None:
    """Restore what the reader has, until there is no more."""
    for item in pipeline.read():
        if item.photo is not None:
            _restore(item, model, settings, progress)
        elif item.job.is_clip and not item.error:
            _restore_clip(item, model, settings, progress)
        pipeline.write(item)


class _Stopped(BaseException):
    """Ends the work of a network's thread between two blocks."""


def _side_by_side(
    models: Sequence[nn.Module],
    pipeline: _Pipeline,
    settings: Settings,
    progress: Callable[[Job, float], None],
) -> None:
    """`_work` with each network in a thread of its own. What they tell, and an error, is passed on in this thread."""
    told: queue.SimpleQueue[tuple[Job, float] | BaseException | None] = queue.SimpleQueue()

    def tell(job: Job, share: float) -> None:
        if pipeline.stopped:
            raise _Stopped
        told.put((job, share))

    def work(model: nn.Module) -> None:
        try:
            device = next(model.parameters()).device
            if device.type == "cuda":
                torch.cuda.set_device(device)
            _work(model, pipeline, settings, tell)
            told.put(None)
        except BaseException as error:
            told.put(error)

    threads = [threading.Thread(target=work, args=(model,), name="xyscan network") for model in models]
    processor = torch.get_num_threads()
    on_cpu = sum(next(model.parameters()).device.type == "cpu" for model in models)
    torch.set_num_threads(max(processor // max(on_cpu, 1), 1))
    try:
        # precision's switches are the process's: held here, no network's end puts them back under another
        with arithmetic(next(models[0].parameters()).device.type, settings.dtype):
            for thread in threads:
                thread.start()
            try:
                running = len(threads)
                while running:
                    event = told.get()
                    if isinstance(event, BaseException):
                        raise event
                    if event is None:
                        running -= 1
                    else:
                        progress(*event)
            finally:
                pipeline.stop()
                for thread in threads:
                    thread.join()
    finally:
        torch.set_num_threads(processor)


def _restore(
    item: _Item, model: nn.Module, settings: Settings, progress: Callable[[Job, float], None]
) -> None:
    assert item.photo is not None
    progress(item.job, 0.0)
    started = time.perf_counter()
    try:
        item.plan = plan_of(*item.photo.rgb.shape[:2], model, settings)
        image = torch.from_numpy(item.photo.to_float()).permute(2, 0, 1)[None]  # (1, 3, H, W)
        restored = restore(
            model,
            image,
            item.plan,
            ensemble=settings.ensemble,
            dtype=settings.dtype,
            tell=item.notes.append,
            progress=lambda share: progress(item.job, share),
        )
        item.photo = item.photo.with_float(restored[0].permute(1, 2, 0).numpy())
    except (ConfigError, UnavailableError):
        raise
    except Exception as error:
        item.fail(_named(error, item.job))
    item.seconds = time.perf_counter() - started


def plan_of(height: int, width: int, model: nn.Module, settings: Settings) -> ImagePlan:
    """How a (height, width) image is restored by a network under these settings."""
    return plan_image(
        height,
        width,
        model.config,
        device=next(model.parameters()).device,
        dtype=settings.dtype,
        tile=settings.tile,
        sharing=settings.sharing,
    )


def _restore_clip(
    item: _Item, model: nn.Module, settings: Settings, progress: Callable[[Job, float], None]
) -> None:
    progress(item.job, 0.0)
    started = time.perf_counter()
    try:
        refuse_existing(item.job.output, settings.overwrite)
        with fetched(item.job.input) as source, stored(item.job.output) as output:
            item.job = replace(item.job, info=item.job.info or probe_clip(source))
            item.plan = plan_of(item.job.info.height, item.job.info.width, model, settings)
            item.clip = restore_clip(
                source,
                output,
                model,
                settings,
                tell=item.notes.append,
                progress=lambda share: progress(item.job, share),
            )
    except (ConfigError, UnavailableError):
        raise
    except Exception as error:
        item.fail(error)
    item.seconds = time.perf_counter() - started


def _named(error: Exception, job: Job) -> Exception:
    """The error with its file's name, where the library that raised it knew none."""
    return InputError(f"{shown(job.input)}: {error}") if isinstance(error, InputError) else error


class _Pipeline:
    """A thread that reads ahead and a thread that writes behind, with short queues to and from the networks."""

    def __init__(
        self,
        jobs: Sequence[Job],
        settings: Settings,
        finished: Callable[[Record], None],
        networks: int,
    ) -> None:
        self._jobs, self._settings, self._finished = jobs, settings, finished
        self._stop = threading.Event()
        self._to_restore: queue.Queue[_Item | None] = queue.Queue(networks)
        self._to_write: queue.Queue[_Item | None] = queue.Queue(networks)
        self._records: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_ahead, name="xyscan reader")
        self._writer = threading.Thread(target=self._write_behind, name="xyscan writer")

    def __enter__(self) -> _Pipeline:
        self._reader.start()
        self._writer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        self._reader.join()
        self._to_write.put(None)
        self._writer.join()
        self.report()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """Read no more, and let those who wait for an item go."""
        self._stop.set()

    def read(self) -> Iterator[_Item]:
        """Items with their photograph, or with the reason why it could not be read; for any thread."""
        while not self.stopped:
            try:
                item = self._to_restore.get(timeout=0.1)
            except queue.Empty:
                continue
            if item is None:
                self._to_restore.put(None)  # for the next network
                return
            yield item

    def write(self, item: _Item) -> None:
        """Hand a restored or failed item to the writer; for any thread."""
        self._to_write.put(item)

    def report(self) -> None:
        """Report what the writer has finished so far."""
        while True:
            try:
                record = self._records.get_nowait()
            except queue.Empty:
                return
            self._finished(record)

    def _read_ahead(self) -> None:
        for job in self._jobs:
            item = _Item(job, error=job.error)
            if not item.error and not job.is_clip:
                try:
                    refuse_existing(job.output, self._settings.overwrite)
                    with fetched(job.input) as path:
                        item.photo = read(path)
                    item.notes += item.photo.notes
                    item.job = _as_read(job, item.photo)
                except Exception as error:
                    item.fail(error)
            if not self._hand_on(item):
                return
        self._hand_on(None)

    def _hand_on(self, item: _Item | None) -> bool:
        while not self._stop.is_set():
            try:
                self._to_restore.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def _write_behind(self) -> None:
        while (item := self._to_write.get()) is not None:
            if item.photo is not None and not item.error:
                try:
                    self._write(item)
                except Exception as error:
                    item.fail(error)
            item.photo = None
            self._records.put(item.record())

    def _write(self, item: _Item) -> None:
        assert item.photo is not None
        output, settings = item.job.output, self._settings
        refuse_existing(output, settings.overwrite)
        with stored(output) as path:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                reason = error.strerror or error
                raise InputError(f"{shown(output)}: cannot make its folder: {reason}") from None
            item.notes += write(
                item.photo,
                path,
                format=settings.format,
                quality=settings.quality,
                strip_metadata=settings.strip_metadata,
            )


def _as_read(job: Job, photo: Photo) -> Job:
    """The job with the size of what was read, where it differs from what the header said or that was not asked."""
    height, width = photo.rgb.shape[:2]
    if job.info is None:
        grey, alpha = "grey" if photo.grey else "rgb", photo.alpha is not None
        name = Path(job.input)
        return replace(job, info=PhotoInfo(name, photo.format, width, height, photo.bit_depth, grey, alpha))
    if (job.info.width, job.info.height) == (width, height):
        return job
    return replace(job, info=replace(job.info, width=width, height=height))
