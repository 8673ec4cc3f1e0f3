"""From the inputs and the output of a command to a list of jobs, every conflict refused before work starts."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xyscannet.addresses import Address, existing, place_of
from xyscannet.errors import ConfigError, InputError, UnavailableError, XYScanError
from xyscannet.files import shown
from xyscannet.images import SUFFIXES, PhotoInfo, check_format, probe
from xyscannet.inference.found import Found, find, is_clip
from xyscannet.video import SUFFIXES as CLIP_SUFFIXES
from xyscannet.video import ClipInfo
from xyscannet.video import probe as probe_clip
from xyscannet.video.pyav import load as load_av

_PREFERRED = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif", "bmp": ".bmp", "heic": ".heic"}
# suffixes of images that are read by other programs, so that `deblur a.jpg b.heic` makes no folder "b.heic"
_FOREIGN = {".gif", ".avif", ".jp2", ".jxl", ".exr", ".hdr", ".psd", ".svg", ".pdf", ".ppm"}
_FOREIGN |= {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".raw"}


_MOST_KINDS = 5


@dataclass(frozen=True)
class Job:
    """One image or clip to restore.

    Attributes:
        input, output: files, or addresses.
        info: what the input's header says; None if it could not be read, with the reason in `error`, and for an
            address, which is read only once.
        skip: the output exists and stays.
    """

    input: Path | Address
    output: Path | Address
    info: PhotoInfo | ClipInfo | None = None
    error: str | None = None
    skip: bool = False

    @property
    def is_clip(self) -> bool:
        """Whether the input is a clip; its name says so."""
        return is_clip(self.input)

    @property
    def pixels(self) -> int:
        """Number of pixels, of a clip's frames in all; 0 where unknown."""
        frames = self.info.frames if isinstance(self.info, ClipInfo) else 1
        return self.info.width * self.info.height * frames if self.info else 0


@dataclass(frozen=True)
class Jobs:
    """All jobs of a run.

    Attributes:
        jobs: in a stable order.
        folder: the folder the outputs go to; None where the output is one file.
        ignored: how many files there were in folders that are neither images nor clips, by suffix.
    """

    jobs: tuple[Job, ...]
    folder: Path | Address | None
    ignored: Counter[str]

    @property
    def ignored_kinds(self) -> str:
        """How many files were ignored, and the commonest of their suffixes; empty where none was."""
        return others(self.ignored, "ignored")


def make_jobs(inputs: Sequence[str], output: str, *, format: str | None = None, exist: str = "error") -> Jobs:
    """Find the input images and clips, and where each result goes.

    A folder is walked, its tree is mirrored into `output`; hidden files and files without an image's or a clip's
    suffix are left out. A pattern that the shell did not expand is expanded, its matches keep their place under the
    part of the pattern that is fixed. A single file goes to `output` itself if that has a suffix of its kind.

    Args:
        format: format of all images; by default each input's own.
        exist: "error", "skip" or "overwrite", for outputs that exist.

    Raises:
        ConfigError: a name is empty, an input is missing, no image is found, the output lies in an input folder or is
            an input, a result would lie outside the output folder, two inputs go to one output, or outputs exist and
            `exist` is "error".
        UnavailableError: all inputs are clips, or one is an address, and the package for them is missing, or that for
            the format; the output's bucket is.
    """
    try:
        return _make_jobs(inputs, output, format, exist)
    except InputError as error:  # an address that cannot be reached
        raise ConfigError(str(error)) from error


def _make_jobs(inputs: Sequence[str], output: str, format: str | None, exist: str) -> Jobs:
    found = Found()
    if (
        not all(inputs) or not output
    ):  # as from a shell variable that is not set; it would mean the folder here
        raise ConfigError("an input or the output is an empty name; the folder you are in is .")
    if isinstance(place := place_of(output), Address):
        place.refuse_writing()
    for text in inputs:
        find(text, found)
    target = _single_file(inputs, output, found)
    if target is None:
        _refuse_output_in_input(output, found)
    if not found.files and not found.unreadable:
        suffixes = ", ".join([*SUFFIXES, *CLIP_SUFFIXES])
        there = f"; {others(found.ignored, 'there')}" if found.ignored else ""
        raise ConfigError(f"no image in {_listing(inputs)}{there} (looked for {suffixes})")

    if all(is_clip(path) for path, _ in found.files) and found.files:
        load_av()
    if target is not None and not is_clip(target):
        check_format(SUFFIXES[target.suffix.lower()])
    elif format:
        check_format(format)
    jobs = [_job(path, place, output, target, format) for path, place in found.files]
    jobs += [Job(path, place_of(output) / place, error=reason) for path, place, reason in found.unreadable]
    if target is None and isinstance(folder := place_of(output), Path):
        _refuse_escapes(jobs, folder)
    jobs = _distinct(jobs)
    _refuse_replaced_inputs(jobs)
    jobs = _apply_exist(jobs, exist)
    _refuse_unwritable(target.parent if target else place_of(output))
    return Jobs(tuple(jobs), None if target else place_of(output), found.ignored)


def others(ignored: Counter[str], how: str) -> str:
    """Such as "3 other files ignored: .dng, .txt", the commonest first; empty where there is none."""
    count, kinds = ignored.total(), [suffix for suffix, _ in ignored.most_common() if suffix]
    if not count:
        return ""
    named = (
        ": " + ", ".join(kinds[:_MOST_KINDS]) + (", ..." if len(kinds) > _MOST_KINDS else "") if kinds else ""
    )
    return f"{count} other {'file' if count == 1 else 'files'} {how}{shown(named)}"


def _listing(names: Sequence[object]) -> str:
    return ", ".join(shown(str(name)) for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _single_file(inputs: Sequence[str], output: str, found: Found) -> Path | Address | None:
    """The output file, where `output` names one."""
    if output == "-":
        raise ConfigError(
            "pictures are not written to stdout: name a file or a folder (./- is one of this name)"
        )
    path = place_of(output)
    if path.is_dir() or output.endswith(("/", os.sep)):
        return None
    suffix = path.suffix.lower()
    one = (
        len(inputs) == 1
        and len(found.files) == 1
        and not found.folders
        and found.files[0][0] == place_of(inputs[0])
    )
    kind = CLIP_SUFFIXES if found.files and is_clip(found.files[0][0]) else SUFFIXES
    if suffix in kind and one:
        return path
    if path.exists() or path.is_symlink():
        what = "a broken link" if not path.exists() else "a file"
        raise ConfigError(f"the output must be a folder here, but {shown(output)} is {what}")
    if one and suffix in {*SUFFIXES, *CLIP_SUFFIXES, *_FOREIGN}:
        raise ConfigError(f"cannot write {suffix}: give a folder, or a file with one of {', '.join(kind)}")
    if suffix in SUFFIXES or suffix in CLIP_SUFFIXES:
        raise ConfigError(f"the output must be a folder here: {shown(output)} looks like a file")
    return None


def _refuse_output_in_input(output: str, found: Found) -> None:
    target = place_of(output).resolve()
    if isinstance(target, Address):
        for walked in found.addresses:
            if f"{target.text.rstrip('/')}/".startswith(f"{walked.text.rstrip('/')}/"):
                raise ConfigError(
                    f"the output {shown(output)} lies in the input {shown(walked)}: choose another"
                )
        return
    for folder in (target, *target.parents):
        try:
            status = folder.stat()
        except OSError:
            continue
        walked = found.folders.get((status.st_dev, status.st_ino))
        if walked is not None:
            where = "is" if folder == target else "lies inside"
            raise ConfigError(
                f"the output {shown(output)} {where} the input folder {shown(walked)}: results would mix with "
                "inputs; choose a folder outside"
            )


def _job(
    path: Path | Address, place: Path, output: str, target: Path | Address | None, format: str | None
) -> Job:
    info, error = None, None
    try:
        if isinstance(path, Path):
            info = probe_clip(path) if is_clip(path) else probe(path)
    except XYScanError as failure:
        if isinstance(failure, ConfigError):
            raise
        unavailable = isinstance(failure, UnavailableError)
        error = f"{shown(path)}: {failure}" if unavailable else str(failure)
    if target is not None and not is_clip(path):
        promised = SUFFIXES[target.suffix.lower()]
        if format and format != promised:
            raise ConfigError(f"--format {format} and the output {shown(target)} disagree")
    if target is not None:
        return Job(path, target, info, error)
    promised = SUFFIXES.get(place.suffix.lower())
    if format and promised != format and not is_clip(path):
        place = place.with_name((place.stem if promised else place.name) + _PREFERRED[format])
    return Job(path, place_of(output) / place, info, error)


def _refuse_escapes(jobs: Sequence[Job], folder: Path) -> None:
    """Refuse a result that would lie outside the output folder: by .. in a pattern, or through a link in the folder."""
    inside = folder.resolve()
    for place, job in {job.output.parent: job for job in jobs}.items():
        if not place.resolve().is_relative_to(inside):
            raise ConfigError(
                f"the result for {shown(job.input)} would leave the output folder: {shown(job.output)} lies in "
                f"{shown(place.resolve())}; remove the link, or name the input without .. in its pattern"
            )


def _distinct(jobs: list[Job]) -> list[Job]:
    """Jobs without those given twice; two inputs for one output are refused."""
    taken: dict[str, Job] = {}
    for job in jobs:
        key = os.path.normcase(os.path.abspath(job.output))
        other = taken.setdefault(key, job)
        if other is not job and other.input.resolve() != job.input.resolve():
            raise ConfigError(
                f"two inputs would go to one output: {shown(other.input)} and {shown(job.input)} to "
                f"{shown(job.output)}; restore them into separate folders"
            )
    return list(taken.values())


def _refuse_replaced_inputs(jobs: Sequence[Job]) -> None:
    inputs = {os.path.normcase(job.input.resolve()): job.input for job in jobs}
    for job in jobs:
        replaced = inputs.get(os.path.normcase(job.output.resolve()))
        if replaced is not None:
            raise ConfigError(
                f"the result for {shown(job.input)} would replace the input {shown(replaced)}: choose another output"
            )


def _refuse_unwritable(folder: Path | Address) -> None:
    if isinstance(folder, Address):  # known when it is written
        return
    there = folder.absolute()
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise ConfigError(f"the output folder {shown(folder)} cannot be made: {shown(there)} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(
            f"the output folder {shown(folder)} cannot be written: check the rights of {shown(there)}"
        )


def _apply_exist(jobs: list[Job], exist: str) -> list[Job]:
    paths = [job.output for job in jobs if isinstance(job.output, Path) and not job.error]
    folders = [path for path in paths if path.is_dir()]
    if folders:
        raise ConfigError(f"the output {shown(folders[0])} is a folder")
    kept = existing(job.output for job in jobs if not job.error)
    there = [job.output for job in jobs if job.output in kept]
    if there and exist == "error":
        count = "1 output exists" if len(there) == 1 else f"{len(there)} of {len(jobs)} outputs exist"
        raise ConfigError(f"{count}: {_listing(there)}; choose --exist skip or --exist overwrite")
    if exist != "skip":
        return jobs
    return [Job(job.input, job.output, job.info, job.error, job.output in kept) for job in jobs]
