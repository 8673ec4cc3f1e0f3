"""`xyscan deblur INPUT... OUTPUT`: deblur photographs."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xyscan_cli import console, options
from xyscan_cli.console import Progress, shown
from xyscannet.errors import ConfigError, InputError, UnavailableError

if TYPE_CHECKING:
    import torch

    from xyscannet.inference import Job, Jobs, Record, Settings
    from xyscannet.models import XYScanNet

LISTED = 5  # names shown of a long list


class Format(str, Enum):
    """File formats that are written."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"
    tiff = "tiff"
    bmp = "bmp"


def command(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT... OUTPUT",
            help="Photographs, folders (walked, their tree is mirrored) or quoted globs; last, the folder for the "
            "results, or a file if the input is one file.",
            show_default=False,
        ),
    ],
    weights: options.WeightsOption = None,
    device: options.DeviceOption = "auto",
    dtype: options.DTypeOption = options.DType.auto,
    scan: options.ScanOption = options.Scan.auto,
    tile: Annotated[
        str,
        typer.Option(
            "--tile",
            metavar="auto|none|N",
            help="auto: whole images, tiles only where memory demands them; N: tiles of at most N pixels a side.",
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
        typer.Option("--quality", min=1, max=100, help="JPEG and WebP quality; by default the input's own."),
    ] = None,
    strip_metadata: Annotated[
        bool, typer.Option("--strip-metadata", help="Leave out EXIF, XMP and other metadata.")
    ] = False,
    channel_order: options.ChannelOrderOption = options.ChannelOrder.rgb,
    json_path: options.JsonOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and every output's name; write nothing.")
    ] = False,
    quiet: options.QuietOption = False,
) -> None:
    """Deblur photographs: files, folders or globs.

    The results keep the format, bit depth, transparency and metadata of the inputs; inputs are never replaced.

    Examples:  xyscan deblur blurry.jpg sharp.jpg  |  xyscan deblur photos/ out/  |  xyscan deblur 'a/*.png' b.jpg out/
    """
    console.set_quiet(quiet)
    if len(paths) < 2:
        raise typer.BadParameter("both INPUT and OUTPUT are needed, e.g. xyscan deblur photos/ out/")
    tile_size = _tile(tile)
    if quality is not None and format not in (None, Format.jpeg, Format.webp):
        raise ConfigError(f"--quality is for JPEG and WebP, not for {format.value}")

    from xyscannet import inference

    jobs = inference.make_jobs(paths[:-1], paths[-1], format=format and format.value, exist=exist.value)
    records = _Records(json_path, exist.value, jobs)
    place = inference.pick_device(device)
    settings = inference.Settings(
        dtype=_dtype(dtype, place),
        tile=tile_size,
        ensemble=ensemble,
        format=format and format.value,
        quality=quality,
        strip_metadata=strip_metadata,
        overwrite=exist is options.Exist.overwrite,
    )
    with _scan_backend(scan, place):
        model, network = _load(weights, place, channel_order.value)
        planned = _plans(jobs, model, settings, place)
        _print_plan(jobs, planned, network, settings, place, paths[-1])
        with records:
            if dry_run:
                code = _dry_run(planned, records)
            else:
                code = _run(jobs, model, settings, records)
    if code:
        raise typer.Exit(code)


def _tile(text: str) -> str | int:
    if text in ("auto", "none"):
        return text
    if text.isdecimal():
        return int(text)
    raise ConfigError(f"--tile must be auto, none or a number of pixels, not {text!r}")


def _dtype(dtype: options.DType, device: torch.device) -> torch.dtype:
    import torch

    from xyscannet.inference import pick_dtype

    if dtype is options.DType.auto:
        return pick_dtype(device)
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype.value]


@contextlib.contextmanager
def _scan_backend(scan: options.Scan, device: torch.device) -> Iterator[None]:
    from xyscannet import ops

    if scan is options.Scan.auto:
        yield
        return
    with ops.use_backend(scan.value):
        if ops.active_backend(device.type) != scan.value:
            raise UnavailableError(f"the scan backend {scan.value} does not run on {device}")
        yield


def _load(weights: str | None, device: torch.device, channel_order: str) -> tuple[XYScanNet, str]:
    """The network, and what it is in words."""
    from xyscannet import checkpoint
    from xyscannet.models import zoo

    if weights is None:
        weights = "xyscannet-s"
        if device.type != "cpu" and zoo.info("xyscannet-b").weights is not None:
            weights = "xyscannet-b"
    model = checkpoint.load_model(weights, device=device, channel_order=channel_order)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    return model, f"{weights}, {parameters:.2f} M parameters, width {model.config.width}"


def _plans(jobs: Jobs, model: XYScanNet, settings: Settings, device: torch.device) -> list[Record]:
    """What is to become of each job: planned, skipped, or failed already."""
    from xyscannet.inference import Record, plan_image

    planned = []
    for job in jobs.jobs:
        if job.skip:
            planned.append(Record(job, "skipped"))
        elif job.error or job.info is None:
            planned.append(Record(job, "failed", error=job.error))
        else:
            size = job.info.height, job.info.width
            try:
                plan = plan_image(
                    *size, model.config, device=device, dtype=settings.dtype, tile=settings.tile
                )
                planned.append(Record(job, "planned", plan=plan))
            except InputError as error:
                planned.append(Record(job, "failed", error=f"{shown(job.input)}: {error}"))
    return planned


def _print_plan(
    jobs: Jobs, planned: Sequence[Record], network: str, settings: Settings, device: torch.device, output: str
) -> None:
    import torch

    from xyscannet.inference.plan import mebibytes

    work = [record for record in planned if record.plan is not None]
    megapixels = sum(record.job.pixels for record in work) / 1e6
    aside = []
    for count, what in (
        (sum(record.status == "skipped" for record in planned), "already there and skipped"),
        (sum(record.status == "failed" for record in planned), "that cannot be restored"),
        (jobs.ignored, "other files ignored"),
    ):
        aside += [f"{count} {what}"] if count else []
    console.field("images", f"{len(work)}, {megapixels:.1f} MP" + (f" ({', '.join(aside)})" if aside else ""))
    console.field("output", f"{output}")
    console.field("network", network + (", averaged over 8 flips and rotations" if settings.ensemble else ""))
    console.field("scan", _scan_in_words(device))
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    )
    dtype = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[settings.dtype]
    console.field("device", f"{device} ({name}), {dtype}")
    if not work:
        return
    largest = max(work, key=lambda record: record.plan.memory_bytes)
    tiled = [record for record in work if not record.plan.whole]
    size = "{0.width} x {0.height}".format
    if tiled:
        first = max(tiled, key=lambda record: record.job.pixels)
        console.field("tiles", f"{len(tiled)} of {len(work)} images in tiles, the others whole")
        console.field("", f"{first.job.input}, {size(first.job.info)}: {first.plan.describe()}")
        console.field("", f"({first.plan.reason})")
    else:
        console.field("tiles", f"none, whole images ({largest.plan.reason})")
    console.field(
        "memory", f"about {mebibytes(largest.plan.memory_bytes)} at most, for {size(largest.job.info)} pixels"
    )


def _scan_in_words(device: torch.device) -> str:
    from xyscannet import ops

    active = ops.active_backend(device.type)
    better = []
    for backend in ops.backends():
        if backend.name == active:
            break
        better.append(f"{backend.name}: {f'not for {device.type}' if backend.usable else backend.reason}")
    return active + (f" ({'; '.join(better)})" if better else "")


def _dry_run(planned: Sequence[Record], records: _Records) -> int:
    failed = []
    for record in planned:
        records.add(record)
        if record.status == "failed":
            failed.append(record)
        else:
            skipped = " (exists, skipped)" if record.status == "skipped" else ""
            console.say(f"{shown(record.job.input)} -> {shown(record.job.output)}{skipped}")
    _print_failures(failed)
    return 1 if failed else 0


def _run(jobs: Jobs, model: XYScanNet, settings: Settings, records: _Records) -> int:
    from xyscannet.inference import Record, run_jobs

    done: list[Record] = []
    work = [job for job in jobs.jobs if not job.skip]
    total = sum(job.pixels for job in work)
    started = time.monotonic()
    code = 0
    with Progress(total / 1e6, "MP", items=len(work)) as bar:

        def pixels_done() -> float:
            return sum(record.job.pixels for record in done if record.status != "skipped") / 1e6

        def finished(record: Record) -> None:
            done.append(record)
            records.add(record)
            bar.update(max(bar.done, pixels_done()), finished=sum(r.status != "skipped" for r in done))

        def progress(job: Job, share: float) -> None:
            before = sum(each.pixels for each in work[: work.index(job)])
            bar.update((before + share * job.pixels) / 1e6, name=str(job.input))

        try:
            run_jobs(jobs.jobs, model, settings, finished=finished, progress=progress)
        except KeyboardInterrupt as interrupt:
            code = console.interrupted(interrupt)
    if code:
        over = {record.job.input for record in done}
        for job in jobs.jobs:
            if job.input not in over:
                records.add(Record(job, "interrupted"))
    _print_notes(done)
    _print_summary(done, len(work), time.monotonic() - started, interrupted=bool(code))
    failed = [record for record in done if record.status == "failed"]
    _print_failures(failed)
    return code or (1 if failed else 0)


def _print_notes(done: Sequence[Record]) -> None:
    inputs = defaultdict(list)
    for record in done:
        for note in record.notes:
            inputs[note].append(shown(record.job.input))
    for note, names in inputs.items():
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        console.say(f"note: {note}: {', '.join(names[:LISTED])}{more}")


def _print_summary(done: Sequence[Record], count: int, seconds: float, *, interrupted: bool) -> None:
    good = [record for record in done if record.status == "done"]
    megapixels = sum(record.job.pixels for record in good) / 1e6
    rate = (
        f", {megapixels:.1f} MP in {console.duration(seconds)} ({megapixels / seconds:.2f} MP/s)"
        if good
        else ""
    )
    console.say(f"{len(good)} of {count} images done{rate}", "bold" if not interrupted else "")
    if interrupted and count > len(good):
        console.say("the same command with --exist skip does the rest")


def _print_failures(failed: Sequence[Record]) -> None:
    if failed:
        lines = [f"{len(failed)} failed:", *(f"  {record.error}" for record in failed)]
        console.error("\n".join(lines))


class _Records:
    """Where `--json` goes: nowhere, stdout, or a file that is moved into place when the run is over."""

    def __init__(self, path: Path | None, exist: str, jobs: Jobs) -> None:
        self._path, self._file = path, None
        if path is None or str(path) == "-":
            return
        taken = {job.input.resolve() for job in jobs.jobs} | {job.output.resolve() for job in jobs.jobs}
        if path.resolve() in taken:
            raise ConfigError(f"--json {shown(path)} is also an input or an output")
        if exist == "error" and path.exists():
            raise ConfigError(f"--json {shown(path)} exists; choose --exist skip or --exist overwrite")
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def __enter__(self) -> _Records:
        if self._path is not None and str(self._path) != "-":
            try:
                self._file = open(self._temporary, "w")
            except OSError as error:
                raise ConfigError(f"--json {shown(self._path)} cannot be written: {error.strerror}") from None
        return self

    def add(self, record: Record) -> None:
        if self._file is not None:
            self._file.write(json.dumps(record.to_dict()) + "\n")
        elif self._path is not None:
            console.data(record.to_dict())

    def __exit__(self, *exception: Any) -> None:
        if self._file is not None:
            self._file.close()
            os.replace(self._temporary, self._path)
