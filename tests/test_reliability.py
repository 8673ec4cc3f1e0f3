"""The fault table of docs/reliability.md names tests that are there, and has a row for every fault that is promised."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
TABLE = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = [line.strip("| ").split(" | ") for line in TABLE.splitlines() if line.startswith("| ")][2:]
FAULTS = [row for row in ROWS if not row[0].startswith("**")]


def test_the_table_is_complete():
    faults = {row[0] for row in FAULTS}
    assert len(faults) == len(FAULTS) >= 25
    assert faults >= {
        "Damaged picture",
        "Damaged checkpoint",
        "Checkpoint with code",
        "Checkpoint that unpacks without end",
        "Names that lead out of the output folder",
        "Links in circles",
        "Hostile names in a report",
        "No space left",
        "Folders and files without rights",
        "Input deleted while running",
        "Folder that grows while running",
        "Ten thousand small files",
        "Jumps of the clock",
        "SIGTERM",
        "Killed (-9)",
        "Two runs on one folder",
    }


@pytest.mark.parametrize("row", FAULTS, ids=lambda row: row[0])
def test_every_test_of_the_table_is_there(row):
    fault, provoked, promised, held = row
    assert fault and provoked and promised
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", held)
    assert named and len(named) == len(held.split("<br>")), held
    for file, function in named:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (
            f"{file} has no {function}"
        )
