"""The benchmarks' commands exist and their options are understood; `docs/benchmarks/gpu.sh` runs them all."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from xyscan_cli.app import load

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
README = (FOLDER / "README.md").read_text()
STAGES = re.findall(r"`docs/benchmarks/gpu.sh OUT (\w+)`", README)


def understood(line: str) -> dict:
    program, name, *arguments = shlex.split(line)
    assert program == "xyscan"
    return load(name).make_context(name, arguments).params


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_the_script(stage, tmp_path):
    """A stand-in for `xyscan` notes what it is called with."""
    called = tmp_path / "called"
    (tmp_path / "xyscan").write_text(f'#!/bin/sh\necho "xyscan $*" >> {shlex.quote(str(called))}\n')
    (tmp_path / "xyscan").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", FOLDER / "gpu.sh", tmp_path / "out", stage], env=environment, check=True)
    given = [understood(line) for line in called.read_text().splitlines()]
    assert given and all(each["device"] == "cuda" and each["markdown"] for each in given)


@pytest.mark.parametrize("page", sorted(FOLDER.glob("ablation-*.md")), ids=lambda page: page.stem)
def test_commands_of_an_ablation(page):
    text = page.read_text().replace("\\\n", " ")
    commands = re.findall(r"^    (?:XYSCAN_DATA=\S+ )?(xyscan .+)$", text, flags=re.MULTILINE)
    assert commands and all(understood(line)["study"] for line in commands)


def test_commands_of_the_page(tmp_path):
    assert len(STAGES) == 6
    lines = re.findall(r"`(xyscan [^`]+)`", README)
    assert lines and all(understood(line) for line in lines)
    assert (
        subprocess.run(["bash", FOLDER / "gpu.sh", "out", "nonsense"], cwd=tmp_path, check=False).returncode
        == 2
    )
