"""`xyscan deblur INPUT... OUTPUT`: deblur photographs and clips."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xyscan_cli import console, exits, networks, options
from xyscan_cli.commands import _deblur_places as places
from xyscan_cli.commands import _deblur_report as report
from xyscan_cli.console import shown
from xyscan_cli.progress import Progress
from xyscannet.errors import ConfigError, InputError
from xyscannet.files import held, remove_leftovers

if TYPE_CHECKING:
    from xyscannet.inference import Job, Jobs, Record
    from xyscannet.video import ClipOptions


CLIPS = "Clips"  # the panel of their options


class Format(str, Enum):
    """File formats that are written."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"
    tiff = "tiff"
    bmp = "bmp"
    heic = "heic"


def command(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT... OUTPUT",
            help="Photographs, clips, folders (walked, their tree is mirrored) or quoted globs; last, the folder for "
            "the results, or a file if the input is one file.",
            show_default=False,
        ),
    ],
    weights: options.WeightsOption = None,
    device: options.DeviceOption = "auto",
    devices: options.DevicesOption = None,
    cluster: options.ClusterOption = None,
    cpus_per_worker: options.CpusOption = None,
    dtype: options.DTypeOption = options.DType.auto,
    scan: options.ScanOption = options.Scan.auto,
    tile: Annotated[
        str,
        typer.Option(
            "--tile",
            metavar="auto|none|N",
            help="auto: whole images, tiles only where memory demands them; none: never tiles; N: tiles of at most N "
            "pixels a side.",
        ),
    ] = "auto",
    scales: Annotated[
        str,
        typer.Option(
            "--scales",
            metavar="auto|1|2|3|4",
            help="1: the network sees the full-size picture only; 2: one of half the size first; 3, 4: of a quarter, "
            "an eighth; auto: as many as the shake needs.",
        ),
    ] = "auto",
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Average over the 8 flips and rotations: 8 times the time.")
    ] = False,
    exist: Annotated[
        options.Exist, typer.Option("--exist", help="What to do with outputs that exist.")
    ] = options.Exist.error,
    format: Annotated[
        Format | None, typer.Option("--format", help="Format of the results; by default each input's own.")
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(
            "--quality",
            min=1,
            max=100,
            help="JPEG, WebP and HEIC quality; by default a JPEG's own, 95 for other inputs, 90 for WebP, 80 for HEIC.",
        ),
    ] = None,
    strip_metadata: Annotated[
        bool,
        typer.Option(
            "--strip-metadata",
            help="Leave out EXIF, XMP and other metadata; of clips also chapters' titles, covers and data streams.",
        ),
    ] = False,
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            metavar="h264|hevc|vp9|av1|...",
            help="Codec of the clips, or an encoder of FFmpeg; by default each clip's own.",
            rich_help_panel=CLIPS,
        ),
    ] = None,
    crf: Annotated[
        float | None,
        typer.Option(
            "--crf",
            min=0,
            max=63,
            help="Constant rate factor, the lower the better; by default the one that takes as many bits as the clip.",
            rich_help_panel=CLIPS,
        ),
    ] = None,
    pix_fmt: Annotated[
        str | None,
        typer.Option(
            "--pix-fmt",
            metavar="yuv420p|yuv420p10le|...",
            help="Pixel format; by default each clip's own.",
            rich_help_panel=CLIPS,
        ),
    ] = None,
    start: Annotated[
        str,
        typer.Option(
            "--start",
            metavar="TIME",
            help="Restore from this time on: seconds or h:mm:ss from the first frame. Sound is cut with it, at the "
            "borders of its packets.",
            rich_help_panel=CLIPS,
        ),
    ] = "0",
    end: Annotated[
        str | None,
        typer.Option(
            "--end",
            metavar="TIME",
            help="Restore the frames before this time.",
            rich_help_panel=CLIPS,
        ),
    ] = None,
    deflicker: Annotated[
        bool,
        typer.Option(
            "--deflicker",
            help="Less flicker: blend each frame's change with that of the frame before, along the motion.",
            rich_help_panel=CLIPS,
        ),
    ] = False,
    channel_order: options.ChannelOrderOption = options.ChannelOrder.rgb,
    json_path: options.JsonOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and every output's name; restore nothing.")
    ] = False,
    quiet: options.QuietOption = False,
) -> None:
    """Deblur photographs and clips: files, folders, globs or addresses.

    The results keep format, bit depth, transparency and metadata of the inputs; clips also their time stamps, sound,
    subtitles, chapters and rotation. Inputs are never replaced. A clip is restored in segments: what is finished is
    kept when the run is interrupted, and the same command with --exist skip goes on from there.

    Examples:

    xyscan deblur blurry.jpg sharp.jpg

    xyscan deblur photos/ out/

    xyscan deblur 'holiday/*.png' cat.jpg out/ --exist skip

    xyscan deblur clip.mp4 sharp.mp4 --start 0:10 --end 0:15

    xyscan deblur archive/ out/ --cluster 10.0.0.1:6379
    """
    console.set_quiet(quiet)
    if len(paths) < 2:
        raise typer.BadParameter("both INPUT and OUTPUT are needed, e.g. xyscan deblur photos/ out/")
    tile_size, how_many = networks.tile_size(tile), networks.number_of_scales(scales)
    if quality is not None and format not in (None, Format.jpeg, Format.webp, Format.heic):
        raise ConfigError(f"--quality is for JPEG, WebP and HEIC, not for {format.value}")

    clip = _clip_options(codec, crf, pix_fmt, start, end, deflicker)
    from xyscannet import inference

    jobs = inference.make_jobs(paths[:-1], paths[-1], format=format and format.value, exist=exist.value)
    jobs = replace(jobs, jobs=tuple(_part(job, clip) for job in jobs.jobs))
    records = report.Records(json_path, exist.value, jobs)
    settings = inference.Settings(
        tile=tile_size,
        scales=how_many,
        ensemble=ensemble,
        format=format and format.value,
        quality=quality,
        strip_metadata=strip_metadata,
        overwrite=exist is options.Exist.overwrite,
        clip=clip,
    )
    networks.refuse_cpus_without(cluster, cpus_per_worker)
    asked = places.Asked(weights, channel_order.value, device, devices, dtype, scan, cluster, cpus_per_worker)
    if all(job.error or job.skip for job in jobs.jobs):
        where = places.nowhere
    else:
        where = places.here if cluster is None else places.on_cluster
    with where(asked, settings) as place:
        planned = _plans(jobs, place)
        report.print_plan(jobs, planned, place, paths[-1])
        with contextlib.ExitStack() as stack:
            if not dry_run and isinstance(jobs.folder, Path):  # an address has no locks
                stack.enter_context(held(jobs.folder))
            stack.enter_context(records)
            if dry_run:
                code = _dry_run(planned, records)
            else:
                for folder in {job.output.parent for job in jobs.jobs if isinstance(job.output, Path)}:
                    remove_leftovers(folder)
                code = _run(jobs, place.restore, records)
    if code:
        raise typer.Exit(code)


def _clip_options(
    codec: str | None,
    crf: float | None,
    pixel_format: str | None,
    start: str,
    end: str | None,
    deflicker: bool,
) -> ClipOptions:
    from xyscannet import video
    from xyscannet.video.clip import seconds_of

    last = math.inf if end is None else seconds_of(end)
    options = video.ClipOptions(codec, crf, pixel_format, seconds_of(start), last, deflicker)
    if options != video.ClipOptions():
        video.check_options(options)
    return options


def _part(job: Job, options: ClipOptions) -> Job:
    """A job that counts the frames that are to be restored only."""
    if not job.is_clip or job.info is None:
        return job
    return replace(job, info=job.info.part(options.start, options.end))


def _plans(jobs: Jobs, place: places.Place) -> list[Record]:
    """What is to become of each job: planned, skipped, or failed already."""
    from xyscannet.inference import Record, plan_image
    from xyscannet.inference.plan import allowance

    planned = []
    for job in jobs.jobs:
        if job.skip:
            planned.append(Record(job, "skipped"))
        elif job.error:
            planned.append(Record(job, "failed", error=job.error))
        elif job.info is None:  # at an address: known when it is read
            planned.append(Record(job, "planned"))
        else:
            size = job.info.height, job.info.width
            try:
                plan = plan_image(
                    *size,
                    place.config,
                    device=place.device,
                    dtype=place.settings.dtype,
                    tile=place.settings.tile,
                    memory=allowance(job.info.width * job.info.height, place.device, place.memory),
                    sharing=place.settings.sharing,
                )
                planned.append(Record(job, "planned", plan=plan))
            except InputError as error:
                planned.append(Record(job, "failed", error=f"{shown(job.input)}: {error}"))
    return planned


def _dry_run(planned: Sequence[Record], records: report.Records) -> int:
    failed = []
    for record in planned:
        records.add(record)
        if record.status == "failed":
            failed.append(record)
        else:
            skipped = " (exists, skipped)" if record.status == "skipped" else ""
            console.say(f"{shown(record.job.input)} -> {shown(record.job.output)}{skipped}")
    report.print_failures(failed)
    return 1 if failed else 0


def _run(jobs: Jobs, restore: Callable[..., None], records: report.Records) -> int:
    from xyscannet.inference import Record

    done: list[Record] = []
    work = [job for job in jobs.jobs if not job.skip]
    known = all(job.info or job.error for job in work)  # else, as for addresses, files are counted
    over, at_work = 0.0, {}  # megapixels (or files) that are over, and of each that is not
    started = time.monotonic()
    code = 0

    def amount(job: Job) -> float:
        return job.pixels / 1e6 if known else 1.0

    items, unit = (len(work), "MP") if known else (0, "files")
    with Progress(sum(map(amount, work)), unit, items=items, noun=report.noun(work)) as bar:

        def finished(record: Record) -> None:
            nonlocal over
            done.append(record)
            records.add(record)
            if record.status != "skipped":
                at_work.pop(record.job.output, None)
                over += amount(record.job)
                bar.update(over + sum(at_work.values()), finished=bar.finished + 1)

        def progress(job: Job, share: float) -> None:
            at_work[job.output] = share * amount(job)
            bar.update(
                over + sum(at_work.values()),
                name=str(job.input),
                detail=report.frame_at_work(job, share),
            )

        try:
            restore(jobs.jobs, finished=finished, progress=progress)
        except KeyboardInterrupt as interrupt:
            code = exits.interrupted(interrupt)
    if code:
        recorded = {record.job.output for record in done}
        for job in jobs.jobs:
            if job.output not in recorded:
                records.add(Record(job, "interrupted"))
    report.print_notes(done)
    report.print_summary(done, work, time.monotonic() - started, interrupted=bool(code))
    failed = [record for record in done if record.status == "failed"]
    report.print_failures(failed)
    return code or (1 if failed else 0)
