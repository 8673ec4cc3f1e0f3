"""A thread that reads files ahead of the networks, and one that writes results behind them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xyscannet.addresses import fetched, stored
from xyscannet.errors import InputError
from xyscannet.files import shown
from xyscannet.images import Photo, PhotoInfo, read, refuse_unwritable, write
from xyscannet.inference.clip_runs import ClipTimes, refuse_existing
from xyscannet.inference.jobs import Job
from xyscannet.inference.plan import ImagePlan
from xyscannet.inference.records import Record, Settings, explained
from xyscannet.inference.stages import Worker, put


@dataclass
class Item:
    """A job on its way through reading, restoring and writing."""

    job: Job
    photo: Photo | None = None
    plan: ImagePlan | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    clip: ClipTimes | None = None
    scales: dict[str, float] | None = None

    def fail(self, error: BaseException) -> None:
        self.error = explained(self.job, error)
        self.photo = None

    def record(self) -> Record:
        status = "failed" if self.error else "done"
        notes = tuple(dict.fromkeys(self.notes))  # each once, of however many frames
        return Record(self.job, status, self.seconds, self.plan, notes, self.error, self.clip, self.scales)


class Pipeline:
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
        self._to_restore: queue.Queue[Item | None] = queue.Queue(networks)
        self._to_write: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(networks)  # for items that wait to be written
        self._records: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self._reader = Worker(self._read_ahead, "xyscan reader")
        self._writer = Worker(self._write_behind, "xyscan writer")

    def __enter__(self) -> Pipeline:
        try:
            self._reader.start()
            self._writer.start()
        except BaseException:  # a signal's, which comes once: it is not to leave a thread or half a file
            self._let_go()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._end()
        except BaseException:
            self._end()
            raise

    def _let_go(self) -> None:
        self.stop()
        self._to_write.put(None)

    def _end(self) -> None:
        self._let_go()
        self._reader.wait()
        self._writer.wait()
        self.report()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        """Read no more, and let those who wait for an item go."""
        self._stop.set()

    def read(self) -> Iterator[Item]:
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

    def write(self, item: Item) -> None:
        """Hand a restored or failed item to the writer, then wait while too many wait; for any thread."""
        self._to_write.put(item)  # before the wait: it is kept if that is interrupted
        self._room.acquire()

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
            item = Item(job, error=job.error)
            if not item.error and not job.is_clip:
                try:
                    refuse_existing(job.output, self._settings.overwrite)
                    with fetched(job.input) as path:
                        item.photo = read(path)
                    item.notes += item.photo.notes
                    item.job = _as_read(job, item.photo)
                    refuse_unwritable(item.photo, job.output, format=self._settings.format)
                except Exception as error:
                    item.fail(error)
            if not put(self._to_restore, item, self._stop.is_set):
                return
        put(self._to_restore, None, self._stop.is_set)

    def _write_behind(self) -> None:
        while (item := self._to_write.get()) is not None:
            self._room.release()
            if item.photo is not None and not item.error:
                try:
                    self._write(item)
                except Exception as error:
                    item.fail(error)
            item.photo = None
            self._records.put(item.record())

    def _write(self, item: Item) -> None:
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
