"""Many files: order, errors kept to their file, what an interruption leaves."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.limits import bounded
from xyscannet.errors import UnavailableError
from xyscannet.inference import Job, Record, Settings, make_jobs, run_jobs
from xyscannet.models import XYScanNetConfig

NAMES = [f"{i}.png" for i in range(6)]


class Toy(nn.Module):
    """Darkens; fails on images of width 13."""

    def __init__(self) -> None:
        super().__init__()
        self.config = XYScanNetConfig(width=8)
        self.gain = nn.Parameter(torch.tensor(0.5), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[3] == 13:
            raise ValueError("unlucky")
        return x * self.gain


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(NAMES):
        picture(Path("in", name), 10 + i)
    return tmp_path


def picture(path: Path, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, width, 3), 200, np.uint8)).save(path)


def run(jobs, model: nn.Module | None = None, **options) -> list[Record]:
    records: list[Record] = []
    settings = options.pop("settings", Settings())
    run_jobs(jobs, model or Toy(), settings, finished=records.append, **options)
    return records


def own_threads() -> list[str]:
    """Threads of a run; those of the operators stay for the next call."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("xyscan") and not name.startswith("xyscan-ops")]


def test_every_file_is_restored_in_order(here: Path) -> None:
    picture(Path("in/3.png"), 50)
    seen: list[tuple[str, float]] = []
    records = run(
        make_jobs(["in"], "out").jobs, progress=lambda job, share: seen.append((job.input.name, share))
    )
    assert [record.job.input.name for record in records] == NAMES
    assert all(record.status == "done" and record.seconds > 0 and record.plan.whole for record in records)
    assert np.asarray(Image.open("out/3.png")).tolist() == np.full((8, 50, 3), 100).tolist()
    assert [name for name, share in seen if share == 1] == NAMES
    assert not own_threads()


def test_errors_stay_with_their_file(here: Path) -> None:
    # 3.png is 13 wide; 1.png breaks after its header was read, 5.png's place is taken by a folder
    jobs = make_jobs(["in"], "out").jobs
    Path("in/1.png").write_bytes(Path("in/1.png").read_bytes()[:50])
    Path("out/5.png").mkdir(parents=True)
    records = run(jobs, settings=Settings(overwrite=True))
    assert [record.status for record in records] == ["done", "failed", "done", "failed", "done", "failed"]
    assert "in/1.png" in records[1].error and "out/5.png" in records[5].error
    assert records[3].error == "in/3.png: unexpected ValueError: unlucky"
    assert sorted(path.name for path in Path("out").iterdir() if path.is_file()) == [
        "0.png",
        "2.png",
        "4.png",
    ]


def test_an_output_that_appears_meanwhile_is_left_alone(here: Path) -> None:
    jobs = make_jobs(["in"], "out").jobs
    picture(Path("out/2.png"), 1)
    records = run(jobs)
    assert [record.status for record in records].count("failed") == 2  # 2.png, and 3.png is 13 wide
    assert "appeared" in records[2].error and Image.open("out/2.png").width == 1


def test_files_that_vanish_while_the_work_goes_on(here: Path) -> None:
    """What was read by then is written, the rest fails by name."""

    class Emptying(Toy):
        def forward(self, x: Tensor) -> Tensor:
            shutil.rmtree(
                "in", ignore_errors=True
            )  # with the first image; the reader is two images ahead at most
            return super().forward(x)

    records = run(make_jobs(["in"], "out").jobs, Emptying())
    assert len(records) == 6 and records[0].status == "done"
    for record in records[4:]:
        assert record.error == f"in/{record.job.input.name}: there is no such file"
    done = [record.job.output.name for record in records if record.status == "done"]
    assert sorted(path.name for path in Path("out").iterdir()) == done


def test_files_that_appear_while_the_work_goes_on_are_for_the_next_run(here: Path) -> None:
    jobs = make_jobs(["in"], "out").jobs
    run_jobs(jobs, Toy(), Settings(), finished=lambda record: picture(Path("in/new.png"), 9))
    assert not Path("out/new.png").exists()
    again = run(make_jobs(["in"], "out", exist="skip").jobs)
    done = [record.job.input.name for record in again if record.status == "done"]
    assert done == ["new.png"] and Image.open("out/new.png").width == 9


def test_an_output_that_is_there_by_then_is_not_computed_again(here: Path) -> None:
    jobs = make_jobs(["in"], "out").jobs
    for name in NAMES:
        picture(Path("out", name), 1)

    class Never(Toy):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("computed")

    records = run(jobs, Never())
    assert all("appeared" in record.error for record in records)


def test_jumps_of_the_clock_change_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jumps = itertools.cycle([2e9, 0, -5e8])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    records = run(make_jobs(["in"], "out").jobs)
    assert all(0 <= record.seconds < 60 for record in records)
    assert [record.status for record in records].count("done") == 5


@pytest.mark.slow  # ten thousand files
def test_ten_thousand_small_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned, read, restored and written, with memory that does not grow with their number."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # the disk's time is not ours
    picture(Path("one.png"), 8)
    content = Path("one.png").read_bytes()
    for number in range(10_000):
        path = Path("many", f"{number % 100:02d}", f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    count = dict.fromkeys(("done", "failed"), 0)

    def finished(record: Record) -> None:
        count[record.status] += 1

    first = make_jobs(["many/00"], "first").jobs
    run_jobs(first, Toy(), Settings(), finished=finished)  # what is allocated once
    with bounded(seconds=120, mebibytes=48):
        jobs = make_jobs(["many"], "out").jobs
        run_jobs(jobs, Toy(), Settings(), finished=finished)
    assert count == {"done": 10_100, "failed": 0}
    assert sum(1 for _ in Path("out").rglob("*.png")) == 10_000
    assert all(job.skip for job in make_jobs(["many"], "out", exist="skip").jobs)


def test_what_the_format_cannot_hold_is_not_computed(here: Path) -> None:
    Image.new("RGBA", (13, 8)).save("in/0.png")  # unlucky, too
    records = run(make_jobs(["in"], "out", format="jpeg").jobs[:2], settings=Settings(format="jpeg"))
    assert [record.status for record in records] == ["failed", "done"]
    assert "out/0.jpg: it is transparent in places" in records[0].error


def test_skipped_files_are_not_read(here: Path) -> None:
    picture(Path("out/1.png"), 1)
    jobs = make_jobs(["in"], "out", exist="skip").jobs
    Path("in/1.png").unlink()
    records = run(jobs)
    assert (records[0].status, records[0].job.input.name) == ("skipped", "1.png")
    assert Image.open("out/1.png").width == 1


def test_an_interruption_keeps_what_is_complete(here: Path) -> None:
    def interrupt(job: Job, share: float) -> None:
        if job.input.name == "2.png" and share > 0:
            raise KeyboardInterrupt

    records: list[Record] = []
    with pytest.raises(KeyboardInterrupt):
        run_jobs(
            make_jobs(["in"], "out").jobs, Toy(), Settings(), finished=records.append, progress=interrupt
        )
    assert [(record.job.input.name, record.status) for record in records] == [
        ("0.png", "done"),
        ("1.png", "done"),
    ]
    assert sorted(path.name for path in Path("out").iterdir()) == ["0.png", "1.png"]
    assert not own_threads()


def test_an_interruption_while_the_writer_is_behind_keeps_what_waits(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquire, waits, records = threading.Semaphore.acquire, itertools.count(), []

    def interrupt(self: threading.Semaphore) -> None:
        if next(waits) == 2:
            raise KeyboardInterrupt
        acquire(self)

    monkeypatch.setattr(threading.Semaphore, "acquire", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(make_jobs(["in"], "out").jobs, Toy(), Settings(), finished=records.append)
    assert [(each.job.input.name, each.status) for each in records] == [(name, "done") for name in NAMES[:3]]


@pytest.mark.parametrize("thread", ["xyscan reader", "xyscan writer"])
def test_an_interruption_at_the_start_leaves_no_thread(
    thread: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, started = threading.Thread.start, []

    def interrupt(self: threading.Thread) -> None:
        start(self)
        started.append(self)
        if self.name == thread:
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(make_jobs(["in"], "out").jobs)
    for each in started:
        each.join(5)
    assert not own_threads() and not Path("out").exists()


@pytest.mark.parametrize("thread", ["xyscan reader", "xyscan writer"])
def test_an_interruption_at_the_end_leaves_no_thread_and_no_half_file(
    thread: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal may come while the main thread waits for another."""
    join, interrupted, records = threading.Thread.join, [], []

    def interrupt(self: threading.Thread, timeout: float | None = None) -> None:
        if self.name == thread and not interrupted:
            interrupted.append(self)
            raise KeyboardInterrupt
        join(self, timeout)

    monkeypatch.setattr(threading.Thread, "join", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(make_jobs(["in"], "out").jobs, Toy(), Settings(), finished=records.append)
    monkeypatch.undo()
    assert not own_threads() and len(records) == 6
    done = [record.job.output.name for record in records if record.status == "done"]
    assert sorted(os.listdir(here / "out")) == done and len(done) == 5


def test_what_stops_every_image_stops_the_run(here: Path) -> None:
    class Missing(Toy):
        def forward(self, x: Tensor) -> Tensor:
            raise UnavailableError("no backend")

    with pytest.raises(UnavailableError, match="no backend"):
        run(make_jobs(["in"], "out").jobs, Missing())


def test_records_are_plain(here: Path) -> None:
    record = run(make_jobs(["in/0.png"], "out").jobs)[0].to_dict()
    assert record["size"] == [10, 8] and record["plan"]["tile"] == [10, 8] and record["error"] is None
    assert record["scales"] == {"1": 1.0}
    keys = {"input", "output", "status", "seconds", "size", "plan", "scales", "notes", "error"}
    assert set(record) == keys
