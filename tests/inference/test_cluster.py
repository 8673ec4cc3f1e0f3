"""Workers of a Ray cluster on this machine: each unit is done by whichever worker is left, and its result handed on."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.inference import cluster as module
from xyscannet.inference import connecting
from xyscannet.inference.cluster import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]


@pytest.fixture
def workers(ray_here):
    with Cluster(cpus=1) as cluster:
        yield cluster


def results(workers: Cluster, make, units: list) -> tuple[dict, list]:
    found, lost = {}, []
    workers.run(make, units, finished=found.__setitem__, lost=lost.append)
    return found, lost


def test_results_may_ask_for_more(workers: Cluster) -> None:
    def make():
        return lambda unit, losses: unit * 2

    found = {}

    def finished(unit, result):
        found[unit] = result
        return [unit + 1, unit + 2] if unit % 10 == 0 else None

    workers.run(make, [10, 20], finished=finished)
    assert found == {unit: unit * 2 for unit in (10, 11, 12, 20, 21, 22)}


def test_what_is_not_wanted_any_more_is_not_done(workers: Cluster) -> None:
    found: dict = {}
    workers.run(
        lambda: lambda unit, losses: unit,
        list(range(40)),
        finished=found.__setitem__,
        wanted=lambda unit: unit % 2 == 0 and not found,
    )
    assert found and set(found) <= {0, 2, 4, 6}  # what two workers are given at once


def test_each_unit_is_done_by_workers_of_the_size(workers: Cluster) -> None:
    def make():
        import torch

        calls = []

        def work(unit, losses):
            calls.append(unit)
            return os.getpid(), unit**2, len(calls), os.environ["XYSCAN_HOME"]

        torch.set_num_threads(1)
        return work

    assert (workers.workers, workers.machines, workers.device, workers.sharing) == (2, 1, "cpu", 2)
    assert workers.describe() == "2 workers on 1 machine, 1 CPU each"
    os.environ["XYSCAN_HOME"] = "somewhere"
    found, lost = results(workers, make, list(range(20)))
    assert [found[i][1] for i in range(20)] == [i**2 for i in range(20)] and not lost
    processes = {each[0] for each in found.values()}
    assert os.getpid() not in processes and len(processes) <= 2
    assert sum(max(each[2] for each in found.values() if each[0] == p) for p in processes) == 20
    assert all(each[3] == "somewhere" for each in found.values())


def test_an_interruption_lets_work_end_where_it_may(workers: Cluster, tmp_path: Path) -> None:
    def make():
        import time

        from xyscannet.inference.cluster import pause_point

        def work(unit, losses):
            (tmp_path / f"{unit}.begun").touch()
            if unit == "first":
                while not (tmp_path / "careful.begun").exists():
                    time.sleep(0.01)
                return unit
            time.sleep(1)  # no place to pause
            (tmp_path / unit).touch()
            pause_point()
            return unit

        return work

    def interrupt(unit, result) -> None:
        seen.append(result)
        if result == "first":
            raise KeyboardInterrupt

    seen: list = []
    with pytest.raises(KeyboardInterrupt):
        workers.run(make, ["first", "careful"], finished=interrupt)
    assert seen == ["first"] and (tmp_path / "careful").exists()


def test_a_lost_workers_unit_is_done_again_and_not_for_ever(workers: Cluster, monkeypatch) -> None:
    def make():
        def work(unit, losses):
            if unit == "deadly" or (unit == "unlucky" and not losses):
                os.kill(os.getpid(), signal.SIGKILL)
            return unit, losses

        return work

    monkeypatch.setattr(module, "MOST_LOSSES", 2)
    found, lost = results(workers, make, ["a", "unlucky", "b", "deadly", "c"])
    alone = {unit: (unit, 0) for unit in "abc"}
    assert found == {**alone, "unlucky": ("unlucky", 1), "deadly": None}
    assert sorted(lost) == ["deadly", "deadly", "unlucky"]


def test_what_stops_every_unit_stops_the_run(workers: Cluster, tmp_path: Path) -> None:
    def failing():
        def work(unit, losses):
            raise ConfigError("this cannot be")

        return work

    with pytest.raises(ConfigError, match="^this cannot be$"):
        results(workers, failing, [1, 2, 3])
    with pytest.raises(UnavailableError, match="gone cannot be entered on .*under the same names"):
        workers.run(failing, [1], finished=print, folder=str(tmp_path / "gone"))
    with pytest.raises(UnavailableError, match="has 1000 processors"):
        Cluster(cpus=1000).__enter__()
    with pytest.raises(UnavailableError, match="has a GPU"):
        Cluster(device="cuda").__enter__()
    with pytest.raises(ConfigError, match="auto, cpu or cuda"):
        Cluster(device="cuda:1")


def test_an_address_where_nobody_listens_is_refused_at_once(monkeypatch) -> None:
    with pytest.raises(
        UnavailableError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 .*ray start --head"
    ):
        connecting.connect(None, "127.0.0.1:1")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UnavailableError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "):
        connecting.connect(None, "auto")
    for text in ("nonsense", "ray://host:10001", "host:"):
        with pytest.raises(ConfigError, match="auto or HOST:PORT"):
            connecting.connect(None, text)
