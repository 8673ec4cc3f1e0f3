"""Crops of photographs: which, where, and what fails."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from xyscannet.analysis import photographs
from xyscannet.errors import ConfigError, InputError


@pytest.fixture
def folder(tmp_path):
    for index, (height, width) in enumerate([(20, 30), (16, 16), (40, 17)]):
        pixels = np.random.default_rng(index).integers(0, 255, (height, width, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), pixels)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_each_photograph_gives_its_centre_first(folder):
    paths = photographs.find_photographs([folder])
    assert [path.name for path in paths] == ["0.png", "1.png", "2.png"]
    found = photographs.crops(paths, 16, 7, seed=1)
    assert [crop.path.name for crop in found] == ["0.png"] * 3 + ["1.png"] * 2 + ["2.png"] * 2
    assert (found[0].top, found[0].left) == (2, 7) and (found[5].top, found[5].left) == (12, 0)
    whole = cv2.cvtColor(cv2.imread(str(folder / "0.png")), cv2.COLOR_BGR2RGB)
    for crop in found[:3]:
        expected = whole[crop.top : crop.top + 16, crop.left : crop.left + 16].transpose(2, 0, 1)[
            None
        ] / np.float32(255)
        np.testing.assert_array_equal(crop.image.numpy(), expected)
    places = [(crop.top, crop.left) for crop in found]
    assert places == [(c.top, c.left) for c in photographs.crops(paths, 16, 7, seed=1)]
    assert places != [(c.top, c.left) for c in photographs.crops(paths, 16, 7, seed=2)]


def test_of_many_photographs_some_evenly_spread(folder):
    paths = photographs.find_photographs([folder])
    assert [crop.path.name for crop in photographs.crops(paths, 16, 2)] == ["0.png", "1.png"]
    assert len(photographs.crops(paths * 10, 16, 5)) == 5


def test_what_cannot_be_used(folder, tmp_path):
    paths = photographs.find_photographs([folder / "0.png", folder / "1.png"])
    heard = []
    found = photographs.crops(paths, 18, 4, failed=heard.append)
    assert len(found) == 2 and len(heard) == 1 and "16×16 pixels are fewer" in str(heard[0])
    with pytest.raises(InputError, match="fewer than a crop"):
        photographs.crops(paths, 18, 4)
    with pytest.raises(InputError, match="none of the photographs"):
        photographs.crops(paths, 64, 4, failed=heard.append)
    with pytest.raises(ConfigError, match="neither a photograph nor a folder"):
        photographs.find_photographs([folder / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no photograph"):
        photographs.find_photographs([tmp_path / "empty"])
