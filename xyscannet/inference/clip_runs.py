"""Restore a whole clip, going on where an earlier run stopped: its finished segments are kept beside the output."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

import xyscannet
from xyscannet.addresses import Address, exists
from xyscannet.errors import InputError
from xyscannet.files import held, reason, shown
from xyscannet.inference.clips import SegmentTimes, restore_segment
from xyscannet.video import Clip, Coding, Segment, choose_coding, join, plan_clip

if TYPE_CHECKING:
    from xyscannet.inference.records import Settings


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


@dataclass(frozen=True)
class OpenedClip:
    """A clip, and the hidden folder beside the output where its finished segments stay until it is joined.

    Attributes:
        mark: tells segments of the same clip, network and settings from others.
    """

    clip: Clip
    coding: Coding
    output: Path
    mark: str

    @property
    def folder(self) -> Path:
        return self.output.with_name(f".{self.output.name}.segments")

    @contextlib.contextmanager
    def held(self) -> Iterator[tuple[str, ...]]:
        """While entered, as it must be for the work, no other run makes this output; gives notes for the user.

        Segments that an earlier run has finished are kept, those of another clip, network or settings are removed.
        Raises ConfigError while another run makes it.
        """
        notes = self.coding.notes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{shown(self.folder)}: cannot be made: {reason(error)}") from error
        try:
            with held(self.folder):
                others = [
                    path for path in self.folder.iterdir() if not path.name.startswith((self.mark, "."))
                ]
                for path in others:
                    path.unlink()
                if others:
                    notes += ("segments of an earlier run with other settings are made again",)
                yield notes
        finally:
            with contextlib.suppress(OSError):  # it holds segments, or is gone
                self.folder.rmdir()

    def restore(
        self,
        segment: Segment,
        model: nn.Module,
        settings: Settings,
        *,
        tell: Callable[[str], None],
        progress: Callable[[float], None] | None = None,
    ) -> SegmentTimes:
        """Restore a segment, unless it is there; see `restore_segment`."""
        return restore_segment(
            self.clip,
            segment,
            self.coding,
            self._file(segment),
            model,
            dtype=settings.dtype,
            scales=settings.scales,
            tile=settings.tile,
            ensemble=settings.ensemble,
            sharing=settings.sharing,
            tell=tell,
            progress=progress,
        )

    def join(self, settings: Settings) -> tuple[str, ...]:
        """Make the output of all segments, remove their folder, and return what the user should hear of."""
        refuse_existing(self.output, settings.overwrite)
        files = list(map(self._file, self.clip.segments))
        notes = join(self.clip, self.coding, files, self.output, strip_metadata=settings.strip_metadata)
        shutil.rmtree(self.folder, ignore_errors=True)
        return tuple(notes)

    def times(self, parts: Sequence[SegmentTimes]) -> ClipTimes:
        """How the work went, of how it went for each segment."""
        frames, restored = self.clip.frames, sum(part.frames for part in parts)
        seconds, waiting = (sum(times) for times in zip(*((part.seconds, part.waiting) for part in parts)))
        return ClipTimes(frames, frames - restored, len(parts), seconds, waiting)

    def _file(self, segment: Segment) -> Path:
        return self.folder / f"{self.mark}-{segment.number:06}"


def open_clip(source: Path, output: Path, model: nn.Module, settings: Settings) -> OpenedClip:
    """Plan a clip's segments; nothing is written.

    Raises:
        InputError: the clip is damaged or cannot be coded, or the output has come to be.
    """
    refuse_existing(output, settings.overwrite)
    clip = plan_clip(source, settings.clip)
    coding = choose_coding(clip, output)
    how = {
        "dtype": settings.dtype,
        "scales": settings.scales,
        "tile": settings.tile,
        "ensemble": settings.ensemble,
    }
    mark = clip.fingerprint(xyscannet.__version__, coding, _digest(model), how)
    return OpenedClip(clip, coding, output, mark[:16])


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
        ConfigError: another run makes this output.
    """
    opened = open_clip(source, output, model, settings)
    frames, done, parts = opened.clip.frames, 0, []
    with opened.held() as notes:
        for note in notes:
            tell(note)
        for segment in opened.clip.segments:
            part = opened.restore(
                segment,
                model,
                settings,
                tell=tell,
                progress=lambda count, done=done: progress((done + count) / frames),
            )
            parts.append(part)
            done += segment.frames
            progress(done / frames)
        for note in opened.join(settings):
            tell(note)
    return opened.times(parts)


def refuse_existing(output: Path | Address, overwrite: bool) -> None:
    """Raise InputError where an output has come to be since the jobs were made."""
    if not overwrite and exists(output):
        raise InputError(f"{shown(output)}: appeared while the work went on, and is left as it is")


def _digest(model: nn.Module) -> str:
    """A digest of a network's weights."""
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()
