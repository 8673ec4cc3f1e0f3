"""Restore a whole clip, going on where an earlier run stopped: its finished segments are kept beside the output."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

import xyscannet
from xyscannet.errors import InputError
from xyscannet.images.formats import shown
from xyscannet.images.writing import reason, replacing
from xyscannet.inference.clips import restore_segment
from xyscannet.video import choose_coding, join, plan_clip

if TYPE_CHECKING:
    from xyscannet.inference.run import Settings

_MARK = "fingerprint"


@dataclass(frozen=True)
class ClipTimes:
    """How the work on a clip went.

    Attributes:
        frames: of the result.
        found: of these, those that an earlier run had restored.
        segments: number of segments.
        seconds: that the segments took.
        waiting: of these, those in which the network waited for frames to be decoded or encoded.
    """

    frames: int
    found: int
    segments: int
    seconds: float
    waiting: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        restored = self.frames - self.found
        return {
            "frames": self.frames,
            "frames_found": self.found,
            "segments": self.segments,
            "frames_per_second": round(restored / self.seconds, 3) if restored else None,
            "waiting_share": round(self.waiting / self.seconds, 4) if restored else None,
        }


def restore_clip(
    source: Path,
    output: Path,
    model: nn.Module,
    settings: Settings,
    *,
    tell: Callable[[str], None],
    progress: Callable[[float], None],
) -> ClipTimes:
    """Restore a clip segment by segment and join it.

    Finished segments stay in a hidden folder beside the output until the clip is done, and are taken as they are by the
    next run of the same clip, network and settings; where any of these differs, they are made again.

    Args:
        tell: called with each thing the user should hear of.
        progress: called in this thread with the share of the work that is done.

    Raises:
        InputError: the clip is damaged or cannot be coded, or files cannot be written.
    """
    refuse_existing(output, settings.overwrite)
    clip = plan_clip(source, settings.clip)
    coding = choose_coding(clip, output)
    for note in coding.notes:
        tell(note)
    folder = output.with_name(f".{output.name}.segments")
    how = {"dtype": settings.dtype, "tile": settings.tile, "ensemble": settings.ensemble}
    mark = clip.fingerprint(xyscannet.__version__, coding, _digest(model), how)
    if not _prepare(folder, mark):
        tell("segments of an earlier run with other settings are made again")
    files = [folder / f"{segment.number:06}" for segment in clip.segments]
    done = found = 0
    seconds = waiting = 0.0
    for segment, file in zip(clip.segments, files):
        times = restore_segment(
            clip,
            segment,
            coding,
            file,
            model,
            **how,
            sharing=settings.sharing,
            tell=tell,
            progress=lambda frames, done=done: progress((done + frames) / clip.frames),
        )
        done += segment.frames
        found += segment.frames - times.frames
        seconds, waiting = seconds + times.seconds, waiting + times.waiting
        progress(done / clip.frames)
    refuse_existing(output, settings.overwrite)
    for note in join(clip, coding, files, output):
        tell(note)
    shutil.rmtree(folder, ignore_errors=True)
    return ClipTimes(clip.frames, found, len(files), seconds, waiting)


def refuse_existing(output: Path, overwrite: bool) -> None:
    """Raise InputError where an output has come to be since the jobs were made."""
    if not overwrite and os.path.lexists(output):
        raise InputError(f"{shown(output)}: appeared while the work went on, and is left as it is")


def _prepare(folder: Path, mark: str) -> bool:
    """Make the folder for segments; False if it held those of other settings, which are removed."""
    try:
        before = (folder / _MARK).read_text()
    except OSError:
        before = None
    if before == mark:
        return True
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{shown(folder)}: cannot be made: {reason(error)}") from error
    with replacing(folder / _MARK) as temporary:
        temporary.write_text(mark)
    return before is None


def _digest(model: nn.Module) -> str:
    """A digest of a network's weights."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()
