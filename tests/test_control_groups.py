"""Limits of containers, as both versions of Linux's control groups have them."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from xyscannet import control_groups, environment


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "cgroup"
    path.write_text("1:name=systemd:/x\n0::/outer/inner\n")
    return path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Of version 1, beside version 2, which limits nothing."""
    path = tmp_path / "old"
    path.write_text("4:memory:/outer/inner\n3:cpu,cpuacct:/outer/inner\n1:name=systemd:/x\n0::/\n")
    (tmp_path / "root/unified").mkdir(parents=True)
    return path


def test_memory(tmp_path: Path, own: Path) -> None:
    root = tmp_path / "root"
    group(root / "outer", memory__max=1000, memory__current=700, memory__stat="anon 1\ninactive_file 200")
    group(root / "outer/inner", memory__max="max", memory__current=10, memory__stat="inactive_file 0")
    assert control_groups.memory_left(root, own) == 500
    assert control_groups.memory_left(root, tmp_path / "gone") == math.inf


def test_memory_of_version_1(tmp_path: Path, old: Path) -> None:
    limits = {"memory__usage_in_bytes": 700, "memory__stat": "inactive_file 1\ntotal_inactive_file 200"}
    root = tmp_path / "root"
    group(root / "memory", **limits, memory__limit_in_bytes=9223372036854771712)
    assert control_groups.memory_left(root, old) == math.inf
    group(root / "memory/outer", **limits, memory__limit_in_bytes=1000)
    assert control_groups.memory_left(root, old) == 500


def test_a_groups_name_is_bytes(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_bytes(b"0::/caf\xe9\n")
    group(
        tmp_path / "root" / os.fsdecode(b"caf\xe9"), memory__max=5, memory__current=1, memory__stat="anon 1"
    )
    assert control_groups.memory_left(tmp_path / "root", own) == 4


def test_processors(tmp_path: Path, own: Path) -> None:
    root = tmp_path / "root"
    group(root / "outer", cpu__max="250000 100000")
    group(root / "outer/inner", cpu__max="max 100000")
    assert control_groups.processors(root, own) == 2.5
    group(root / "outer/inner", cpu__max="60000 50000")
    assert control_groups.processors(root, own) == 1.2
    assert control_groups.processors(root, tmp_path / "gone") == math.inf


def test_processors_of_version_1(tmp_path: Path, old: Path) -> None:
    root = tmp_path / "root"
    group(root / "cpu", cpu__cfs_quota_us=-1, cpu__cfs_period_us=100000)
    assert control_groups.processors(root, old) == math.inf
    group(root / "cpu/outer", cpu__cfs_quota_us=150000, cpu__cfs_period_us=100000)
    assert control_groups.processors(root, old) == 1.5


def test_a_container_sees_its_own_group_as_the_root(tmp_path: Path, own: Path) -> None:
    """Where the process's own path is the host's, which is not there."""
    group(
        tmp_path / "root", cpu__max="100000 100000", memory__max=9, memory__current=2, memory__stat="anon 2"
    )
    assert control_groups.processors(tmp_path / "root", own) == 1
    assert control_groups.memory_left(tmp_path / "root", own) == 7


@pytest.mark.parametrize(
    ("quota", "threads"), [(math.inf, None), (3.0, None), (2.5, None), (2.0, "2"), (1.2, "2"), (0.1, "1")]
)
def test_threads_are_no_more_than_the_quota(
    quota: float, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "processors", lambda: quota)
    monkeypatch.setattr(environment, "cores", lambda: 3)
    for before in (None, "7"):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        if before:
            monkeypatch.setenv("OMP_NUM_THREADS", before)
        environment.set_defaults()
        assert environment.os.environ.get("OMP_NUM_THREADS") == (before or threads)
