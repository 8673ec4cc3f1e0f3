"""The Triton kernels interpreted on the CPU: all files of cases, in a process of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.triton_compiling import OLDEST
from tests.subprocesses import ROOT, environment


@pytest.mark.slow  # interprets for one to two minutes
def test_every_case_passes_and_none_is_skipped():
    """A kernel is interpreted or compiled for good: as triton is told when it is imported."""
    pytest.importorskip("triton", minversion=OLDEST)
    cases = sorted(str(path) for path in Path(__file__).parent.glob("triton*_cases.py"))
    assert len(cases) == 6
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *cases],
        cwd=ROOT,
        env=environment(OMP_NUM_THREADS="1", TRITON_INTERPRET="1"),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d passed", done.stdout) and "skipped" not in done.stdout, done.stdout[-2000:]
