from __future__ import annotations

from pathlib import Path

import pytest

from xyscannet.data.pairs import find_pairs
from xyscannet.errors import ConfigError, UnavailableError


def put(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def test_flat_layout_pairs_by_stem(tmp_path: Path) -> None:
    put(tmp_path, "blur/b.png", "blur/a.JPG", "sharp/a.png", "sharp/b.png", "blur/notes.txt")
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == ["a", "b"]
    assert pairs[0].blur == tmp_path / "blur/a.JPG" and pairs[0].sharp == tmp_path / "sharp/a.png"


def test_sequences_and_splits(tmp_path: Path) -> None:
    for split, sequence in (("test", "GOPR0384_11_00"), ("train", "GOPR0372_07_00")):
        put(tmp_path, *(f"{split}/{sequence}/{kind}/000001.png" for kind in ("blur", "blur_gamma", "sharp")))
    assert [pair.name for pair in find_pairs(tmp_path)] == [
        "test/GOPR0384_11_00/000001",
        "train/GOPR0372_07_00/000001",
    ]
    assert [pair.name for pair in find_pairs(tmp_path / "test")] == ["GOPR0384_11_00/000001"]


def test_missing_partners_are_named_not_skipped(tmp_path: Path) -> None:
    put(tmp_path, "s/blur/1.png", "s/blur/2.png", "s/sharp/1.png", "s/sharp/3.png")
    with pytest.raises(ConfigError, match=r"2 files.*2\.png.*3\.png"):
        find_pairs(tmp_path)
    put(tmp_path / "other", "blur/1.png")
    with pytest.raises(ConfigError, match="no partner"):
        find_pairs(tmp_path / "other")


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "blur/1.png", "blur/1.jpg", "sharp/1.png")
    with pytest.raises(ConfigError, match="same stem"):
        find_pairs(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="does not exist"):
        find_pairs(tmp_path / "absent")
    with pytest.raises(UnavailableError, match="named blur and sharp"):
        find_pairs(tmp_path)
    (tmp_path / "blur").mkdir()
    (tmp_path / "sharp").mkdir()
    with pytest.raises(UnavailableError, match="hold no images"):
        find_pairs(tmp_path)
