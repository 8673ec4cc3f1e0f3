from __future__ import annotations

from pathlib import Path

import pytest

from tests.data import miniature
from xyscannet.data import datasets
from xyscannet.data.check import check


@pytest.mark.parametrize("deep", [False, True])
def test_every_sample_in_order(deep: bool, tmp_path: Path) -> None:
    home = miniature.put(
        tmp_path, *(f"{role}/{number:02d}.png" for role in ("blur", "sharp") for number in range(20))
    )
    miniature.picture(home / "sharp/03.png", size=(12, 16))
    (home / "blur/05.png").write_bytes(b"no picture")
    (home / "sharp/05.png").write_bytes(b"")
    (home / "sharp/07.png").unlink()
    (home / "sharp/07.png").symlink_to("nowhere.png")
    found = datasets.pair_folders(home / "blur", home / "sharp")
    checked = list(check(found, deep=deep))
    assert [each.sample for each in checked] == list(found.samples)
    faulty = {each.sample.name: each for each in checked if each.problems}
    assert {name: len(each.problems) for name, each in faulty.items()} == {"03": 1, "05": 2, "07": 1}
    assert "16x12" in faulty["03"].problems[0] and "12x16" in faulty["03"].problems[0]
    assert faulty["05"].size is None and faulty["07"].size == (16, 12)


@pytest.mark.parametrize("deep", [False, True])
def test_images_without_sharp_ones(deep: bool, tmp_path: Path) -> None:
    found = datasets.images_below(miniature.rwbi_bursts(tmp_path))
    assert [(each.size, each.problems) for each in check(found, deep=deep)] == [((16, 12), ())] * 3


def test_stopping_early_ends_the_threads(tmp_path: Path) -> None:
    found = datasets.images_below(miniature.put(tmp_path, *(f"{number}.png" for number in range(50))))
    looking = check(found, deep=True)
    assert next(looking).size == (16, 12)
    looking.close()
