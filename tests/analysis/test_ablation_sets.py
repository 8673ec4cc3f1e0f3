"""What an ablation is measured on: the sets that are here, and the metrics that can be computed."""

from __future__ import annotations

import json

import pytest

from tests.analysis.ablations import make_plan
from tests.data.miniature import picture
from xyscannet.analysis import ablation
from xyscannet.analysis.ablation import sets
from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.metrics import registry

pytest.importorskip("skimage", reason="PSNR needs scikit-image")


def test_sets_that_are_not_here_and_metrics_that_cannot_be_computed(gopro, tmp_path, monkeypatch):
    build = registry.build

    def unavailable(name: str, **options):
        if name != "psnr":
            raise UnavailableError(f"{name} needs weights\nmore")
        return build(name, **options)

    monkeypatch.setattr(registry, "build", unavailable)
    monkeypatch.setenv("XYSCAN_DATA", str(gopro.parent))
    found, gaps = ablation.find_sets("scan", {})
    assert [(test.name, dict(test.metrics)) for test in found] == [("gopro", {"gopro psnr": "psnr"})]
    assert gaps["gopro lpips"] == "lpips-alex needs weights"
    assert gaps["hide psnr"] == "the test split of HIDE was not found"
    assert ablation.image_size(found[0]) == (20, 24)
    with pytest.raises(UnavailableError, match="nothing to measure"):
        ablation.find_sets("fusion", {})
    monkeypatch.delenv("XYSCAN_DATA")
    with pytest.raises(UnavailableError, match="XYSCAN_DATA"):
        ablation.find_sets("scan", {})
    for role in ("blur", "sharp"):
        picture(tmp_path / "mine" / role / "1.png")
    found, gaps = ablation.find_sets("slices", {"mine": str(tmp_path / "mine"), "gopro": str(gopro)}, limit=1)
    assert {test.name: dict(test.metrics) for test in found} == {
        "gopro": {"gopro psnr": "psnr"},
        "mine": {"mine psnr": "psnr"},
    }
    assert all(len(test.dataset.samples) == 1 for test in found)
    with pytest.raises(UnavailableError, match="HIDE"):
        ablation.find_sets("slices", {"hide": str(tmp_path / "mine" / "blur")})


def test_realblur_is_measured_by_its_protocol(gopro, tmp_path, monkeypatch):
    for role in ("blur", "sharp"):
        picture(tmp_path / "realblur/test" / role / "1.png", seed=1)
    given = {"realblur-j": str(tmp_path / "realblur")}
    plan = make_plan(gopro, tmp_path / "runs", given=given, variants=("xyscannet",))
    (test,) = plan.sets
    assert dict(test.metrics) == {"realblur-j psnr-realblur": "psnr-realblur"}
    (cell,) = ablation.run(plan)
    assert "RealBlur's alignment" in cell.notes["realblur-j psnr-realblur"]
    kept = plan.home("xyscannet", 0) / "evaluation/slices/realblur-j/evaluation.json"
    assert json.loads(kept.read_text())["protocol"] == "realblur"
    with monkeypatch.context() as patched:
        patched.setattr(registry, "build", lambda name, **_: None)
        found, _ = ablation.find_sets("scan", given | {"mine": given["realblur-j"]})
    assert [[*each.metrics.values()] for each in found] == [
        ["psnr-realblur", "st-lpips"],
        ["psnr", "lpips-alex"],
    ]


def test_given_sets():
    assert sets.parse_given(["gopro=a/b=c", "mine=d"]) == {"gopro": "a/b=c", "mine": "d"}
    for wrong in ("gopro", "=a", "a b=c", "a="):
        with pytest.raises(ConfigError, match="NAME=FOLDER"):
            sets.parse_given([wrong])
    with pytest.raises(ConfigError, match="twice"):
        sets.parse_given(["a=b", "a=c"])
