from __future__ import annotations

import re
from pathlib import Path

from xyscannet.data.pairs import match


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def test_pairs_by_stem(tmp_path: Path) -> None:
    put(tmp_path, "blur/b.png", "blur/a.JPG", "sharp/a.png", "sharp/b.png", "blur/notes.txt")
    pairs, problems = match(tmp_path / "blur", tmp_path / "sharp")
    assert [pair.name for pair in pairs] == ["a", "b"] and not problems
    assert pairs[0].blur == tmp_path / "blur/a.JPG" and pairs[0].sharp == tmp_path / "sharp/a.png"


def test_missing_partners_are_named_not_skipped(tmp_path: Path) -> None:
    put(tmp_path, "blur/1.png", "blur/2.png", "sharp/1.png", "sharp/3.png")
    pairs, problems = match(tmp_path / "blur", tmp_path / "sharp")
    assert [pair.name for pair in pairs] == ["1"]
    assert [re.search(r"\d\.png has no partner", problem) is not None for problem in problems] == [True, True]
    assert "2.png" in problems[0] and "3.png" in problems[1]
    assert len(match(tmp_path / "blur", tmp_path / "sharp", spare_sharp=True)[1]) == 1


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "blur/1.png", "blur/1.jpg", "sharp/1.png")
    pairs, problems = match(tmp_path / "blur", tmp_path / "sharp")
    assert not pairs and "same stem" in problems[0]


def test_nothing_there(tmp_path: Path) -> None:
    assert match(tmp_path / "blur", tmp_path / "absent") == ([], [])
