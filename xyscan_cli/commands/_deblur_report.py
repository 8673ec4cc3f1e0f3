"""What `xyscan deblur` says: the plan before the work, notes and failures after it, a record for each file."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xyscan_cli import console, networks
from xyscan_cli.console import shown
from xyscan_cli.progress import duration, number
from xyscannet.errors import ConfigError
from xyscannet.files import is_stream

if TYPE_CHECKING:
    import torch

    from xyscan_cli.commands._deblur_places import Place
    from xyscannet.inference import Job, Jobs, Record, Settings
    from xyscannet.inference.clip_runs import ClipTimes
    from xyscannet.inference.cluster import Cluster
    from xyscannet.inference.on_cluster import Worker

LISTED = 5  # names shown of a long list


def print_plan(
    jobs: Jobs,
    planned: Sequence[Record],
    place: Place,
    output: str,
) -> None:
    from xyscannet.inference.memory import mebibytes

    work = [record for record in planned if record.status == "planned"]
    aside = []
    for count, what in (
        (sum(record.status == "skipped" for record in planned), "already there and skipped"),
        (sum(record.status == "failed" for record in planned), "that cannot be read"),
    ):
        aside += [f"{count} {what}"] if count else []
    aside += [jobs.ignored_kinds] if jobs.ignored else []
    others = f" ({', '.join(aside)})" if aside else ""
    clips = [record.job for record in work if record.job.is_clip]
    images = [record.job for record in work if not record.job.is_clip]
    if not work:
        console.field("images", f"none to restore{others}")
        return
    if images:
        console.field("images", f"{len(images)}, {_megapixels(images)}{others}")
    if clips:
        frames = sum(job.info.frames for job in clips if job.info)
        about = f"about {frames} frames, " if frames else ""
        console.field("clips", f"{len(clips)}, {about}{_megapixels(clips)}{others if not images else ''}")
    console.field("output", f"{output}")
    console.field(
        "network",
        place.network + (", averaged over 8 flips and rotations" if place.settings.ensemble else ""),
    )
    console.field("scales", _scales_in_words(place.settings.scales))
    for name, words in place.where.items():
        console.field(name, words)
    sized = [record for record in work if record.plan is not None]
    if not sized:
        console.field("tiles", "where memory demands them, decided when an image is read")
        return
    largest = max(sized, key=lambda record: record.plan.memory_bytes)
    tiled = [record for record in sized if record.plan.mode == "tiles"]
    size = "{0.width} x {0.height}".format
    if tiled:
        first = max(tiled, key=lambda record: record.job.pixels)
        console.field(
            "tiles",
            f"{len(tiled)} of {len(work)} images in tiles"
            if len(tiled) < len(work)
            else "every image in tiles",
        )
        console.field("", f"{first.job.input}, {size(first.job.info)}: {first.plan.describe()}")
        console.field("", f"({first.plan.reason})")
    else:
        strips = ", the largest in strips of its feature maps" if largest.plan.strips else ""
        console.field("tiles", f"none, whole images{strips} ({largest.plan.reason})")
    height, width = largest.plan.tile
    need = mebibytes(largest.plan.memory_bytes)
    what = "a tile" if largest.plan.mode == "tiles" else "the largest image"
    console.field("memory", f"about {need} at most, for {what} of {width} x {height}")


def _scales_in_words(scales: str | int) -> str:
    if scales == "auto":
        return "auto: full size, and from smaller ones up where the shake is strong"
    return "1, full size" if scales == 1 else f"{scales}, from 1/{2 ** (scales - 1)} of the size up"


def noun(jobs: Sequence[Job]) -> str:
    """What the jobs are: images, clips or both."""
    kinds = {job.is_clip for job in jobs}
    return "files" if len(kinds) == 2 else "clips" if True in kinds else "images"


def frame_at_work(job: Job, share: float) -> str:
    """Which frame of a clip is being restored; nothing for an image."""
    frames = job.info.frames if job.is_clip and job.info else 0
    return f"frame {min(int(share * frames) + 1, frames)}/{frames}" if frames else ""


def _megapixels(jobs: Sequence[Job]) -> str:
    if not any(job.info for job in jobs):
        return "of sizes that are known when they are read"
    return f"{number(sum(job.pixels for job in jobs) / 1e6)} MP"


def _clip_in_words(clip: ClipTimes) -> str:
    """`240 frames, 3.1 frames/s, the network waited 0.4 % of the time for the codec`."""
    found = f", {clip.found} of them found restored" if clip.found else ""
    if clip.found == clip.frames:
        return f"{clip.frames} frames{found}"
    rate, share = (clip.frames - clip.found) / clip.seconds, 100 * clip.waiting / clip.seconds
    return (
        f"{clip.frames} frames{found}, {number(rate)} frames/s, "
        f"the network waited {number(share)} % of the time for the codec"
    )


def here(devices: Sequence[torch.device], settings: Settings) -> dict[str, str]:
    """What runs the network on this machine, as fields of the plan."""
    name = "device" if len(devices) == 1 else "devices"
    dtype = networks.short_name(settings.dtype)
    return {"scan": _scan_in_words(devices[0]), name: f"{_devices_in_words(devices)}, {dtype}"}


def there(cluster: Cluster, worker: Worker, settings: Settings) -> dict[str, str]:
    """What runs the network on a cluster, as fields of the plan."""
    return {
        "scan": worker.scan,
        "cluster": cluster.describe(),
        "device": f"{cluster.device} ({worker.device}), {networks.short_name(settings.dtype)}",
    }


def _devices_in_words(devices: Sequence[torch.device]) -> str:
    """`cpu (2 threads)`, `cuda:0 (NVIDIA H100), cuda:1 (NVIDIA H100)`, `cpu, cpu (1 thread each)`."""
    import torch

    if devices[0].type == "cuda":
        return ", ".join(f"{device} ({torch.cuda.get_device_name(device)})" for device in devices)
    threads = max(torch.get_num_threads() // len(devices), 1)
    each = " each" if len(devices) > 1 else ""
    return f"{', '.join(map(str, devices))} ({threads} thread{'s' * (threads != 1)}{each})"


def _scan_in_words(device: torch.device) -> str:
    from xyscannet import ops

    active = ops.active_backend(device.type)
    better = []
    for backend in ops.backends():
        if backend.name == active:
            break
        if not backend.serves(device.type):
            better.append(f"{backend.name}: {f'not for {device.type}' if backend.usable else backend.reason}")
    return active + (f" ({'; '.join(better)})" if better else "")


def print_notes(done: Sequence[Record]) -> None:
    inputs = defaultdict(list)
    for record in done:
        for note in record.notes:
            inputs[note].append(shown(record.job.input))
    for note, names in inputs.items():
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        console.say(f"note: {note}: {', '.join(names[:LISTED])}{more}")


def print_summary(done: Sequence[Record], work: Sequence[Job], seconds: float, *, interrupted: bool) -> None:
    good = [record for record in done if record.status == "done"]
    rate = ""
    if good:
        megapixels = sum(record.job.pixels for record in good) / 1e6
        rate = f", {number(megapixels)} MP in {duration(seconds)}"
        rate += f" ({number(megapixels / seconds)} MP/s)"
    console.say(f"{len(good)} of {len(work)} {noun(work)} done{rate}", "bold" if not interrupted else "")
    for record in good:
        if record.clip:
            console.say(f"{shown(record.job.input)}: {_clip_in_words(record.clip)}")
    if interrupted and len(work) > len(good):
        console.say("the same command with --exist skip does the rest")


def print_failures(failed: Sequence[Record]) -> None:
    if failed:
        lines = [f"{len(failed)} failed:", *(f"  {record.error}" for record in failed)]
        console.error("\n".join(lines))


class Records:
    """Where `--json` goes: nowhere, stdout, a stream, or a file that is moved into place when the run is over."""

    def __init__(self, path: Path | None, exist: str, jobs: Jobs) -> None:
        self._path, self._file, self._lost = path, None, False
        if path is None or str(path) == "-":
            return
        places = ((job.input, job.output, job.output.parent) for job in jobs.jobs)
        taken = {place.resolve() for each in places for place in each}
        if path.resolve() in taken:
            raise ConfigError(f"--json {shown(path)} is also an input or an output")
        if is_stream(path):
            self._temporary = path
            return
        if path.is_dir():
            raise ConfigError(f"--json {shown(path)} is a folder; name a file")
        if exist == "error" and path.exists():
            raise ConfigError(f"--json {shown(path)} exists; choose --exist skip or --exist overwrite")
        self._path = path.resolve() if path.is_symlink() else path
        self._temporary = self._path.with_name(f".{path.name}.{os.getpid()}.part")

    def __enter__(self) -> Records:
        if self._path is not None and str(self._path) != "-":
            try:
                self._temporary.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self._temporary, "w")
            except OSError as error:
                raise ConfigError(f"--json {shown(self._path)} cannot be written: {error.strerror}") from None
        return self

    def add(self, record: Record) -> None:
        if self._lost:
            return
        if self._file is not None:
            try:
                self._file.write(json.dumps(record.to_dict()) + "\n")
                self._file.flush()
            except OSError as error:
                self._lose(error)
        elif self._path is not None:
            console.data(record.to_dict())

    def __exit__(self, *exception: Any) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
            if not self._lost and self._temporary != self._path:
                os.replace(self._temporary, self._path)
        except OSError as error:
            self._lose(error)
        finally:
            if self._temporary != self._path:
                self._temporary.unlink(missing_ok=True)

    def _lose(self, error: OSError) -> None:
        """Say once that the records are lost; the pictures are not."""
        if self._lost:
            return
        self._lost = True
        console.lose_data(
            f"--json {shown(self._path)} cannot be written, its records are lost: {error.strerror}"
        )
