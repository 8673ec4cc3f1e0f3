"""What a process of the command line sets for itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.subprocesses import environment


def run(program: str) -> str:
    """What a process prints, on both streams."""
    started = subprocess.run(
        [
            sys.executable,
            "-c",
            "from xyscannet.environment import collect_as_always, spare_the_collector\n" + program,
        ],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert started.returncode == 0, started.stdout
    return started.stdout


@pytest.mark.parametrize("objects, as_always", [(1_000, True), (10_000_000, False)])
def test_garbage_is_looked_for_once_many_objects_were_made(objects, as_always):
    program = f"""
import gc, weakref
class Cycle:
    def __init__(self): self.me = self
usual, frozen = gc.get_threshold(), gc.get_freeze_count()  # Python 3.12 begins with some
spare_the_collector({objects})
kept = [[] for _ in range(3_000)]
garbage = weakref.ref(Cycle())
kept += [[] for _ in range(20_000)]
print(gc.get_threshold() == usual, not gc.callbacks, gc.get_freeze_count() > frozen, garbage() is None)
"""
    assert run(program).split() == [str(as_always)] * 4


@pytest.mark.parametrize(
    "begin", ["collect_as_always()", "from xyscan_cli.networks import pick_device; pick_device('cpu')"]
)
def test_garbage_is_looked_for_once_work_begins(begin):
    program = f"""
import gc
usual, before = gc.get_threshold(), list(gc.callbacks)
collect_as_always()
spare_the_collector()
assert gc.get_threshold() > usual
{begin}
print(gc.get_threshold() == usual, gc.callbacks == before)
collect_as_always()
print(gc.get_threshold() == usual, gc.callbacks == before)
"""
    assert run(program).split() == ["True"] * 4


@pytest.mark.parametrize("objects", [1_000, 10_000_000])
def test_a_process_with_triton_ends_quietly(objects):
    """Frozen objects are not deleted at the end, of which Triton's binding would print a list."""
    pytest.importorskip("triton")
    assert run(f"spare_the_collector({objects})\nimport triton.language") == ""


def test_what_was_imported_is_not_looked_through_in_the_end():
    program = """
import atexit, gc
atexit.register(lambda: print(gc.get_freeze_count() > 10_000))
spare_the_collector()
kept = [[] for _ in range(20_000)]
"""
    assert run(program).split() == ["True"]
