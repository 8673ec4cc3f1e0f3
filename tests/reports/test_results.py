"""Evaluations survive being written and read."""

from __future__ import annotations

import json
import math

import pytest

from xyscannet.errors import InputError
from xyscannet.reports.results import Column, Evaluation, ImageResult, Summary, from_json, to_json


def evaluation(**changes) -> Evaluation:
    """Two images, one identical to its sharp partner and one unreadable."""
    given = {
        "label": "xyscannet-s",
        "dataset": "gopro",
        "protocol": "plain",
        "columns": (Column("psnr", "PSNR", "dB", True, "scikit-image 0.25"),),
        "images": (
            ImageResult("a/1", {"psnr": math.inf}, "blur/1.png", "out/1.png", "sharp/1.png", 720, 1280, 0.5),
            ImageResult("a/2", {"psnr": None}, failures={"image": "blur/2.png is no image"}),
        ),
        "summaries": {"psnr": Summary(None, None, None, None, 0, 1, 1, ("a/1",))},
        "expected": 1111,
        "settings": {"dtype": "fp32"},
    }
    return Evaluation(**{**given, **changes})


def test_json_keeps_everything():
    written = to_json(evaluation())
    assert from_json(written) == evaluation()
    assert json.loads(written, parse_constant=lambda name: pytest.fail(name))["images"][0]["values"] == {
        "psnr": "inf"
    }


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "columns": [{"nam": 1}]}', "nonsense"]
)
def test_other_files_are_named(text):
    with pytest.raises(InputError, match="page.json does not hold"):
        from_json(text, "page.json")


def test_another_format_is_refused():
    with pytest.raises(InputError, match="another version"):
        from_json(to_json(evaluation()).replace('"format": 1', '"format": 2'))


def test_columns_by_name():
    assert evaluation().column("psnr").title == "PSNR"
    with pytest.raises(KeyError):
        evaluation().column("ssim")
