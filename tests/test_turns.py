from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.turns import Turns

SOON = 0.2  # seconds


def started(turns: Turns, alone: bool, go: threading.Event) -> tuple[threading.Thread, threading.Event]:
    """A test's turn that lasts until it may go, and whether it has begun."""
    begun = threading.Event()

    def run() -> None:
        with turns.turn(alone=alone):
            begun.set()
            assert go.wait(10)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, begun


def test_who_is_alone_waits_for_all_others_and_none_overtakes(tmp_path: Path) -> None:
    go = [threading.Event() for _ in range(4)]
    turns = [Turns(tmp_path / "turns") for _ in go]  # as of four processes
    first, begun = started(turns[0], False, go[0])
    assert begun.wait(10)
    second, begun = started(turns[1], False, go[1])
    assert begun.wait(10)
    alone, alone_begun = started(turns[2], True, go[2])
    assert not alone_begun.wait(SOON)
    later, later_begun = started(turns[3], False, go[3])
    go[0].set(), first.join()
    assert not alone_begun.wait(SOON) and not later_begun.wait(SOON)
    go[1].set(), second.join()
    assert alone_begun.wait(10) and not later_begun.wait(SOON)
    go[2].set(), alone.join()
    assert later_begun.wait(10)
    go[3].set(), later.join()


TESTS = """
import time
from pathlib import Path
import pytest

{mark}
@pytest.mark.parametrize("turn", range({count}))
def test(turn):
    begin = time.monotonic()
    time.sleep(0.3)
    Path("{name}-" + str(turn)).write_text(f"{{begin}} {{time.monotonic()}}")
"""


def test_in_several_processes_a_test_that_measures_time_runs_alone(tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    for name, mark, count in (("timed", "@pytest.mark.timing", 2), ("other", "", 6), ("third", "", 6)):
        (tmp_path / f"test_{name}.py").write_text(TESTS.format(name=name, mark=mark, count=count))
    root = Path(__file__).parents[1]
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    timing\n    slow\n    gpu\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "3",
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    spans = {path.name: tuple(map(float, path.read_text().split())) for path in tmp_path.glob("*-*")}
    assert len(spans) == 14
    timed = [spans.pop(f"timed-{turn}") for turn in range(2)]
    others = sorted(spans.values())
    assert any(later[0] < earlier[1] for earlier, later in itertools.pairwise(others))  # these run together,
    assert all(
        end <= begin or start >= stop for begin, stop in timed for start, end in others
    )  # and those do not
