"""The Triton kernels interpreted on the CPU: all files of cases, in processes of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ops.triton_compiling import OLDEST
from tests.subprocesses import environment

HERE = Path(__file__).parent


GROUPS = {
    "depthwise": ["triton_depthwise_cases.py"],
    "scan and conv1d": ["triton_cases.py"],
    "the others": [
        "triton_exposure_cases.py",
        "triton_kl_gate_cases.py",
        "triton_line_gate_cases.py",
        "triton_mixer_cases.py",
    ],
}


@pytest.mark.slow  # each interprets for half a minute
@pytest.mark.parametrize("group", GROUPS)
def test_every_case_passes_and_none_is_skipped(group):
    """A kernel is interpreted or compiled for good: as triton is told when it is imported."""
    pytest.importorskip("triton", minversion=OLDEST)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *GROUPS[group]],
        cwd=HERE,
        env=environment(OMP_NUM_THREADS="1", TRITON_INTERPRET="1"),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d passed", done.stdout) and "skipped" not in done.stdout, done.stdout[-2000:]


def test_every_file_of_cases_is_interpreted():
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(
        path.name for path in HERE.glob("triton*_cases.py")
    )
