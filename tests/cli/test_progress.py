"""What is written while a bar is live on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.subprocesses import environment

pty = pytest.importorskip("pty")


def beside_a_bar(block: str) -> tuple[subprocess.Popen, int]:
    """A process that runs `block` while a bar is live on stderr, a terminal, and that terminal's other end."""
    ours, its = pty.openpty()
    code = f"""
import sys
from xyscan_cli import console
from xyscan_cli.progress import Progress
with Progress(10, "MP") as bar:
    {block}
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": its, "text": True}
    started = subprocess.Popen([sys.executable, "-c", code], env=environment(), **pipes)
    os.close(its)
    return started, ours


def test_data_goes_to_stdout() -> None:
    process, terminal = beside_a_bar("console.data({'status': 'done'})")
    assert process.communicate(timeout=30)[0] == '{"status": "done"}\n'
    os.close(terminal)


def test_the_work_goes_on_where_the_terminal_has_gone() -> None:
    process, terminal = beside_a_bar("sys.stdin.read(); console.say('line'); bar.update(5); print(bar.done)")
    os.read(terminal, 1)
    os.close(terminal)
    assert process.communicate(timeout=30)[0] == "5\n"
    assert process.returncode == 0
