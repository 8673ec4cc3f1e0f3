"""Several networks share one list of files: the same results, each file once, errors and interruptions as with one."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.inference import Record, Settings, make_jobs, pick_devices, plan_image, run_jobs
from xyscannet.models import XYScanNet, XYScanNetConfig

NAMES = [f"{i}.png" for i in range(8)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    for i, name in enumerate(NAMES):
        pixels = np.random.default_rng(i).integers(0, 256, (12 + i, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(Path("in", name))
    return tmp_path


def run(models, output: str = "out", **options) -> list[Record]:
    records: list[Record] = []
    run_jobs(make_jobs(["in"], output).jobs, models, Settings(), finished=records.append, **options)
    return records


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def network_threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name in ("xyscan network", "xyscan reader")]


class Meeting(nn.Module):
    """Waits in its first call until another network has been called too."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self.config = XYScanNetConfig(width=8)
        self.gain = nn.Parameter(torch.tensor(0.5), requires_grad=False)
        self.barrier, self.calls = barrier, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.threads = torch.get_num_threads()
        if self.calls == 1:
            self.barrier.wait(30)
        return x * self.gain


def test_two_networks_give_the_files_of_one(here: Path) -> None:
    torch.manual_seed(0)
    config = XYScanNetConfig(width=8, encoder_blocks=(1, 0, 0), decoder_blocks=(1, 0, 0), d_state=4)
    models = [XYScanNet(config).eval() for _ in range(2)]
    nn.init.normal_(models[0].output.weight, std=0.05)
    models[1].load_state_dict(models[0].state_dict())
    run(models[0], "one")
    seen: list[tuple[str, float]] = []
    records = run(models, "two", progress=lambda job, share: seen.append((job.input.name, share)))
    assert sorted(record.job.input.name for record in records) == NAMES
    assert all(record.status == "done" and record.plan.whole for record in records)
    assert contents("one") == contents("two") and len(contents("one")) == len(NAMES)
    assert sorted({name for name, share in seen if share == 1}) == NAMES
    assert not network_threads()


def test_they_work_at_the_same_time_and_share_the_processor(here: Path) -> None:
    barrier = threading.Barrier(2)
    models = [Meeting(barrier), Meeting(barrier)]
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        assert [record.status for record in run(models)] == ["done"] * 8
        assert torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)
    assert min(model.calls for model in models) > 0 and sum(model.calls for model in models) == 8
    assert [model.threads for model in models] == [2, 2]


def test_an_interruption_keeps_what_is_complete(here: Path) -> None:
    """It comes with the first news after two files are written, which the networks give time for."""

    class Slow(Meeting):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.4 if self.calls else 0)
            return super().forward(x)

    def interrupt(job, share: float) -> None:
        if len(records) >= 2:
            raise KeyboardInterrupt

    records: list[Record] = []
    barrier = threading.Barrier(2)
    models = [Slow(barrier), Slow(barrier)]
    with pytest.raises(KeyboardInterrupt):
        run_jobs(
            make_jobs(["in"], "out").jobs, models, Settings(), finished=records.append, progress=interrupt
        )
    assert 2 <= len(records) < 8 and not network_threads()
    assert {record.job.input.name for record in records} == set(contents("out"))


def test_what_stops_every_image_stops_them_all(here: Path) -> None:
    class Missing(Meeting):
        def forward(self, x: Tensor) -> Tensor:
            self.barrier.wait(30)
            raise UnavailableError("no backend")

    barrier = threading.Barrier(2)
    with pytest.raises(UnavailableError, match="no backend"):
        run([Meeting(barrier), Missing(barrier)])
    assert not network_threads()


def test_bad_files_stay_alone(here: Path) -> None:
    jobs = make_jobs(["in"], "out").jobs
    for name in NAMES[:3]:
        Path("in", name).write_bytes(b"no image")
    records: list[Record] = []
    barrier = threading.Barrier(1)
    run_jobs(jobs, [Meeting(barrier), Meeting(barrier)], Settings(), finished=records.append)
    assert sorted(record.job.input.name for record in records if record.status == "failed") == NAMES[:3]
    assert sorted(contents("out")) == NAMES[3:]


def test_names_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert pick_devices("cpu, cpu") == [cpu, cpu]
    for names, words in (("", "with commas"), ("cpu,", "with commas"), ("tpu", "no such device")):
        with pytest.raises(ConfigError, match=words):
            pick_devices(names)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_devices("all") == [cpu]
    with pytest.raises(UnavailableError, match="cuda:1 is not there"):
        pick_devices("1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert pick_devices("all") == [torch.device("cuda", index) for index in range(3)]
    assert pick_devices("0,2") == [torch.device("cuda", 0), torch.device("cuda", 2)]
    assert pick_devices("cuda,cuda:0") == [torch.device("cuda", 0)] * 2
    with pytest.raises(ConfigError, match="of one kind"):
        pick_devices("cpu,0")


def test_they_divide_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xyscannet.inference.plan.BETTER_IN_STRIPS", 10**6)
    monkeypatch.setattr("xyscannet.inference.plan.available_memory", lambda device: 2**30)

    def plan(sharing: int):
        config = XYScanNetConfig(width=8)
        return plan_image(700, 700, config, device="cpu", dtype=torch.float32, sharing=sharing)

    assert plan(1).whole
    assert not plan(4).whole and plan(4).memory_bytes < 2**30 * 0.75 / 4
