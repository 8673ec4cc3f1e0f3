"""Means, intervals and paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from xyscannet.errors import ConfigError
from xyscannet.evaluation import compare, summarise
from xyscannet.evaluation import statistics as module
from xyscannet.reports.results import Column, Evaluation, ImageResult


def evaluation(label, **values):
    columns = (
        Column("psnr", "PSNR", "dB", True, ""),
        Column("lpips", "LPIPS", "", False, ""),
        Column("fid", "FID", "", False, "", of_set=True),
    )
    images = tuple(ImageResult(n, {"psnr": v, "lpips": None if v is None else -v}) for n, v in values.items())
    return Evaluation(label, "mini", "plain", columns, images, {})


def test_the_interval_covers_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(module, "RESAMPLES", 1000)
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        low, high = module.interval(random.normal(30, 2, 40))
        inside += low <= 30 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_the_interval_is_the_same_however_it_is_cut(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = module.interval(values)
    monkeypatch.setattr(module, "_AT_ONCE", 7 * len(values))
    assert whole == module.interval(values)
    assert whole[1] - whole[0] == pytest.approx(2 * 1.96 * values.std() / 50**0.5, rel=0.05)


def test_the_worst_follow_the_metrics_direction():
    values = {"a": 3.0, "b": 1.0, "c": None, "d": 2.0}
    assert summarise(values, True).worst == ("b", "d", "a")
    assert summarise(values, False).worst == ("a", "d", "b")
    assert summarise({}, True).mean is None


def test_differences_by_image():
    found = compare(
        evaluation("old", a=30.0, b=31.0, c=20.0, e=1.0), evaluation("new", b=30.5, a=31.0, c=None, d=5.0)
    )
    assert found.differences["psnr"] == {"a": 1.0, "b": -0.5}
    assert found.summaries["psnr"].mean == 0.25 and found.summaries["psnr"].worst[0] == "b"
    assert found.summaries["lpips"].mean == -0.25 and found.summaries["lpips"].worst[0] == "b"
    assert found.wins == {"psnr": 1, "lpips": 1} and found.differences.keys() == found.wins.keys()


def test_other_sets_do_not_compare():
    with pytest.raises(ConfigError, match="no image in common"):
        compare(evaluation("a", x=1.0), evaluation("b", y=1.0))
    from dataclasses import replace

    with pytest.raises(ConfigError, match="do not correspond"):
        compare(evaluation("a", x=1.0), replace(evaluation("b", x=1.0), protocol="realblur"))
