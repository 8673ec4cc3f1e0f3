"""Sets whose pairs a list names, and lists with faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data import miniature
from tests.data.miniature import facts
from xyscannet.data import datasets
from xyscannet.data.datasets import Dataset
from xyscannet.errors import UnavailableError


def write_list(tmp_path: Path, text: str) -> Dataset:
    home = miniature.realblur_lists(tmp_path / "RealBlur")
    (home / "RealBlur_J_test_list.txt").write_bytes(text.encode())
    return datasets.find("realblur-j", home)


SHARP = f"{miniature.SCENES['J']}/scene002/gt/gt_1.png"
BLUR = f"{miniature.SCENES['J']}/scene002/blur/blur_1.png"


def test_list_with_more_columns_crlf_and_blank_lines(tmp_path: Path) -> None:
    second = [path.replace("1.", "2.") for path in (SHARP, BLUR)]
    found = write_list(
        tmp_path, f"\ufeff\r\n{SHARP} {BLUR} third/column.png 7\r\n\r\n  \r\n./{second[0]}\t{second[1]}"
    )
    assert [sample.name for sample in found.samples] == ["scene002/blur_1", "scene002/blur_2"]
    assert found.samples[1].sharp.name == "gt_2.png" and not facts(found)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"{SHARP} ../outside.png", "leads out"),
        (f"/etc/passwd {BLUR}", "leads out"),
        (f"C:/pictures/1.png {BLUR}", "leads out"),
        (f"{SHARP} a\\..\\..\\1.png", "leads out"),
        (f"{SHARP} a/../../../outside.png", "leads out"),
        (f"{SHARP}", "one path"),
        (f"{SHARP} {BLUR}", "repeats"),
        (f"{SHARP} {miniature.SCENES['J']}/scene002", "is no file"),
        (f"{SHARP} nothing\0there.png", "is no file"),
    ],
)
def test_wrong_lines_of_a_list(line: str, told: str, tmp_path: Path) -> None:
    miniature.picture(tmp_path / "outside.png")
    found = write_list(tmp_path, f"{SHARP} {BLUR}\n{line}\n")
    assert len(found.samples) == 1
    (problem,) = facts(found)
    assert "line 2" in problem and told in problem


def test_list_without_any_of_its_files(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="is no file"):
        write_list(tmp_path, "a/gt/gt_1.png a/blur/blur_1.png\n")
