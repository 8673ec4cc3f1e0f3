"""Restore many files: the next image is read and the last result is written while the network computes."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from xyscannet.addresses import fetched, stored
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.files import shown
from xyscannet.inference.clip_runs import refuse_existing, restore_clip
from xyscannet.inference.graphs import CudaGraphs
from xyscannet.inference.jobs import Job
from xyscannet.inference.pipeline import Item, Pipeline
from xyscannet.inference.plan import ImagePlan, plan_for
from xyscannet.inference.precision import arithmetic
from xyscannet.inference.records import Record, Settings
from xyscannet.inference.scales import restore_at_scales
from xyscannet.inference.stages import Worker
from xyscannet.video import probe as probe_clip


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
    with Pipeline([job for job in jobs if not job.skip], settings, finished, len(models)) as pipeline:

        def advance(job: Job, share: float) -> None:
            pipeline.report()
            if progress:
                progress(job, share)

        if len(models) == 1:
            _work(models[0], pipeline, settings, advance)
        else:
            _side_by_side(models, pipeline, settings, advance)


def _work(
    model: nn.Module, pipeline: Pipeline, settings: Settings, progress: Callable[[Job, float], None]
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
    pipeline: Pipeline,
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

    threads = [Worker(partial(work, model), "xyscan network") for model in models]
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
                    thread.wait()
    finally:
        torch.set_num_threads(processor)


def _restore(
    item: Item, model: nn.Module, settings: Settings, progress: Callable[[Job, float], None]
) -> None:
    assert item.photo is not None
    progress(item.job, 0.0)
    started = time.perf_counter()
    try:
        item.plan = plan_of(*item.photo.rgb.shape[:2], model, settings)
        image = torch.from_numpy(item.photo.to_float()).permute(2, 0, 1)[None]  # (1, 3, H, W)
        restored, shares = restore_at_scales(
            model,
            image,
            item.plan,
            scales=settings.scales,
            tile=settings.tile,
            sharing=settings.sharing,
            ensemble=settings.ensemble,
            dtype=settings.dtype,
            tell=item.notes.append,
            progress=lambda share: progress(item.job, share),
        )
        item.photo = item.photo.with_float(restored[0].permute(1, 2, 0).numpy())
        item.scales = {str(1 + k): s for k, share in enumerate(shares[0].tolist()) if (s := round(share, 3))}
        if settings.scales == "auto" and shares[0, 0] < 0.5:
            smallest = 2 ** int(1 + shares[0, 1:].argmax())
            item.notes.append(f"strong shake, restored from 1/{smallest} of its size up")
    except (ConfigError, UnavailableError):
        raise
    except Exception as error:
        item.fail(_named(error, item.job))
    item.seconds = time.perf_counter() - started


def plan_of(height: int, width: int, model: nn.Module, settings: Settings) -> ImagePlan:
    """How a (height, width) image is restored by a network under these settings."""
    given = {"dtype": settings.dtype, "tile": settings.tile, "sharing": settings.sharing}
    return plan_for(model, height, width, **given)


def _restore_clip(
    item: Item, model: nn.Module, settings: Settings, progress: Callable[[Job, float], None]
) -> None:
    progress(item.job, 0.0)
    started = time.perf_counter()
    try:
        refuse_existing(item.job.output, settings.overwrite)
        with fetched(item.job.input) as source, stored(item.job.output) as output:
            part = settings.clip.start, settings.clip.end
            item.job = replace(item.job, info=item.job.info or probe_clip(source).part(*part))
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
