"""Pairs of any two folders, and images below one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.miniature import put
from xyscannet.data import datasets
from xyscannet.errors import UnavailableError


def test_pairs_of_any_folders(tmp_path: Path) -> None:
    put(
        tmp_path,
        "in/a/1.png",
        "in/a/2.png",
        "in/IMG_blur_7.png",
        "out/a/1.jpg",
        "out/a/2.png",
        "out/img-gt-7.png",
    )
    found = datasets.pair_folders(tmp_path / "in", tmp_path / "out")
    assert [(sample.name, sample.sharp.name) for sample in found.samples] == [
        ("IMG_blur_7", "img-gt-7.png"),
        ("a/1", "1.jpg"),
        ("a/2", "2.png"),
    ]
    assert found.name == "in" and found.expected is None and not found.problems


def test_pairs_by_stem_only_where_one_folder_is_flat(tmp_path: Path) -> None:
    put(tmp_path, "in/x/1.png", "in/y/2.png", "flat/1.png", "flat/2.png", "deep/z/1.png", "deep/y/2.png")
    assert len(datasets.pair_folders(tmp_path / "in", tmp_path / "flat").samples) == 2
    found = datasets.pair_folders(tmp_path / "in", tmp_path / "deep")
    assert [sample.name for sample in found.samples] == ["y/2"] and len(found.problems) == 2


def test_ambiguous_partners(tmp_path: Path) -> None:
    put(tmp_path, "in/1.png", "in/1.jpg", "in/2.png", "in/3_blur.png", "in/3.png")
    put(tmp_path, "out/1.png", "out/2.png", "out/3.png", "out/3_gt.png")
    found = datasets.pair_folders(tmp_path / "in", tmp_path / "out")
    assert [(sample.name, sample.sharp.name) for sample in found.samples] == [
        ("2", "2.png"),
        ("3", "3.png"),
        ("3_blur", "3_gt.png"),
    ]
    assert len(found.problems) == 1 and "ambiguous" in found.problems[0]
    put(tmp_path, "in2/a/1.png", "in2/b/1.png", "out2/1.png", "in2/a/2.png", "out2/2.png")
    (problem,) = datasets.pair_folders(tmp_path / "in2", tmp_path / "out2").problems
    assert "ambiguous" in problem
    with pytest.raises(UnavailableError, match="no pairs"):
        datasets.pair_folders(put(tmp_path / "one", "a.png"), put(tmp_path / "two", "b.png"))


def test_images_below(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "a.jpg", "b/c.png", "a.jpg.png", ".hidden.png")
    found = datasets.images_below(tmp_path)
    assert sorted(sample.name for sample in found.samples) == ["a.jpg", "a.jpg_", "a.png", "b/c"]
    assert all(sample.sharp is None for sample in found.samples) and found.name == tmp_path.name
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnavailableError, match="no images"):
        datasets.images_below(tmp_path / "empty")
    with pytest.raises(UnavailableError, match="does not exist"):
        datasets.images_below(tmp_path / "absent")


def test_unknown_pairs_are_recognised(tmp_path: Path) -> None:
    put(
        tmp_path / "mine",
        "train/holiday/blur/1.png",
        "train/holiday/sharp/1.png",
        "blur/1.png",
        "sharp/1.png",
    )
    found = datasets.recognise(tmp_path / "mine")
    assert [(each.name, each.split, len(each.samples)) for each in found] == [
        ("mine", "", 1),
        ("mine", "train", 1),
    ]
    assert all(each.expected is None and not each.problems for each in found)
