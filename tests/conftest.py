"""What all tests share: GPU tests are skipped where there is no GPU, and tests that measure time run alone."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.turns import Turns
from xyscannet import environment

# The tests are small: threads would wait for each other and for what runs beside them (tests/ops/conftest.py).
os.environ.setdefault("OMP_NUM_THREADS", "1")
environment.set_defaults()  # as the command line does
gc.disable()  # what is imported to collect the tests stays


@pytest.fixture
def memory():
    """The file system of memory:// addresses, empty."""
    fs = pytest.importorskip("fsspec", reason="fsspec is not installed").filesystem("memory")
    fs.store.clear(), fs.pseudo_dirs.clear()
    yield fs
    fs.store.clear(), fs.pseudo_dirs.clear()


@pytest.fixture(scope="module")
def ray_here():
    """Ray on this machine, with two processors; its start takes about ten seconds, a worker's about three."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    store = 80 * 2**20
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=store,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield ray
    ray.shutdown()


_FOLDER, _TURNS = pytest.StashKey[Path](), pytest.StashKey[Turns]()


def pytest_configure(config: pytest.Config) -> None:
    """One of several processes of pytest-xdist takes turns with the others.

    Commands that the tests start can be interrupted, even if whoever started the tests has SIGINT ignored.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    ):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        run = config.workerinput["testrunuid"]
        config.stash[_FOLDER] = Path(tempfile.gettempdir(), f"xyscan-turns-{run}")
        config.stash[_TURNS] = Turns(config.stash[_FOLDER])


def pytest_unconfigure(config: pytest.Config) -> None:
    if _FOLDER in config.stash:  # the others keep the files that they have opened
        shutil.rmtree(config.stash[_FOLDER], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """With -n auto: one more than there are processors, for some tests wait for what they have started."""
    return environment.cores() + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A file's tests run in one process, in the order of `pytest_collection_modifyitems`."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if _TURNS not in item.config.stash:
        return (yield)
    with item.config.stash[_TURNS].turn(alone=item.get_closest_marker("timing") is not None):
        return (yield)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported stays: collecting garbage, as measurements do before each call, need not look at it."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _TURNS in config.stash:  # files that take long first, so that the processes end together
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        timed = {item.path for item in items if item.get_closest_marker("timing")}
        # What runs alone comes after them: it does not make the others wait while it compiles kernels.
        items.sort(key=lambda item: -0.5 if item.path in timed else -slow[item.path])
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
