"""Ablations of a tiny network on a tiny GoPro: cells are made once, go on, fail alone, and are never mixed."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.data.miniature import picture
from xyscannet.analysis import ablation
from xyscannet.analysis.ablation import costs, sets
from xyscannet.analysis.ablation.table import costs_file
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.metrics import registry
from xyscannet.models import XYScanNetConfig
from xyscannet.training.loop import Interrupted, Trainer

pytest.importorskip("skimage", reason="PSNR needs scikit-image")
CPU = torch.device("cpu")
RECORD = {"loss": 1.0, "grad_norm": 1.0, "lr": 1e-3, "crops": 2}
TINY = {"width": 8, "encoder_blocks": [1, 0, 0], "decoder_blocks": [1, 0, 0], "d_state": 4}


@pytest.fixture(scope="module")
def gopro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs to train on and three to test."""
    root = tmp_path_factory.mktemp("data") / "GoPro"
    for seed, place in enumerate(
        ("train/a/{}/1", "train/a/{}/2", "test/b/{}/1", "test/b/{}/2", "test/b/{}/3")
    ):
        for role in ("blur", "sharp"):
            picture(root / f"{place.format(role)}.png", size=(24, 20), seed=2 * seed + (role == "blur"))
    return root


def make_plan(gopro: Path, folder: Path, *overrides: str, **changes) -> ablation.Plan:
    settings = [f"data.pairs=[{{dataset: gopro, root: {gopro}}}]", "validation.pairs=null", "data.patch=16"]
    settings += [f"model={json.dumps(TINY)}", "data.batch=2", "loss.contrastive=0", "tensorboard=false"]
    recipe = ablation.recipe(4, [*settings, "optimiser.lr=2e-3", "data.prefetch=1", *overrides], CPU)
    given = {"gopro": str(gopro)}
    found, gaps = ablation.find_sets("slices", changes.pop("given", given), limit=changes.pop("limit", None))
    plan = ablation.Plan("slices", folder, recipe, ("inter-only", "xyscannet"), 1, found, gaps, CPU)
    return replace(plan, facts={"machine": "here", "command": "xyscan ablate slices"}, **changes)


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Trainer) -> None:
        raise AssertionError("nothing is to be trained")

    monkeypatch.setattr(Trainer, "run", fail)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_cells_are_made_once_and_averaged(gopro, tmp_path, monkeypatch):
    plan, heard = make_plan(gopro, tmp_path / "runs", seeds=2), []
    assert plan.cells == [("inter-only", 0), ("xyscannet", 0), ("inter-only", 1), ("xyscannet", 1)]
    watcher = ablation.Watcher(on_cell=lambda *cell: heard.append(cell))
    cells = list(ablation.run(plan, watcher))
    assert [(cell.variant, cell.seed) for cell in cells] == plan.cells
    assert [what for *_, what in heard] == ["training", "measuring"] * 4
    values = [cell.values["gopro psnr"] for cell in cells]
    assert len(set(values)) == 4 and all(cell.failure is None and not cell.problems for cell in cells)
    assert cells[0].network["scanners"] == ["inter", "inter"] and cells[0].images == {"gopro": 3}
    assert (
        cells[0].gaps == {"hide psnr": "no hide was given"} and "scikit-image" in cells[0].notes["gopro psnr"]
    )

    forbid(monkeypatch)
    assert [replace(cell, date="") for cell in ablation.run(plan)] == [replace(c, date="") for c in cells]
    monkeypatch.setattr(costs, "peak_of", lambda case, device, tell: 2_000_000)
    record = ablation.profile(plan, (20, 24), repeats=1)
    table = ablation.tabulate("slices", cells, record, seeds=2, command="xyscan ablate slices")
    assert table.values("xyscannet", "gopro psnr") == [values[1], values[3]]
    assert [variant.label for variant in table.variants] == ["inter only", "hybrid"]
    figures = table.variants[0].figures
    assert figures["training time (s)"] == pytest.approx(figures["step seconds"] * 2103 / 2)
    assert figures["inference memory (GB)"] == 0.002 and figures["inference time (s)"] > 0
    assert any("iterations 4 (394312)" in note for note in table.notes)
    assert table.gaps == {"hide psnr": "no hide was given"} and table.higher == ["psnr"]
    again = ablation.collect(plan.folder, "slices")
    assert again.variants == table.variants and again.seeds == 2 and list(again.notes) == list(table.notes)
    assert {(c.variant, c.seed, c.values["gopro psnr"]) for c in again.cells} == {
        (c.variant, c.seed, c.values["gopro psnr"]) for c in cells
    }


def test_what_is_interrupted_goes_on(gopro, tmp_path, monkeypatch):
    whole = make_plan(gopro, tmp_path / "whole", variants=("xyscannet",))
    (expected,) = ablation.run(whole)
    plan, steps = replace(whole, folder=tmp_path / "runs"), []

    def note(event: dict) -> None:
        if event["event"] == "step":
            steps.append(event["step"])

    with pytest.raises(Interrupted):
        list(ablation.run(plan, ablation.Watcher(on_event=note, should_stop=lambda: len(steps) == 2)))
    assert steps == [1, 2]

    def stop(name: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(ablation.run(plan, ablation.Watcher(on_event=note, on_image=stop)))
    assert steps == [1, 2, 3, 4]
    forbid(monkeypatch)
    measured: list[int] = []
    (cell,) = ablation.run(plan, ablation.Watcher(on_image=lambda name, done, total: measured.append(done)))
    assert measured == [2, 3]
    assert cell.values == expected.values
    weights = [each.home("xyscannet", 0) / "last.safetensors" for each in (whole, plan)]
    assert digest(weights[0]) == digest(weights[1])


def test_a_cell_that_fails_does_not_lose_the_others(gopro, tmp_path, monkeypatch):
    plan, train = make_plan(gopro, tmp_path / "runs"), Trainer.run

    def fail(self: Trainer):
        if self.network_config.scanners == ("inter", "inter"):
            raise RuntimeError("CUDA error: something")
        return train(self)

    monkeypatch.setattr(Trainer, "run", fail)
    cells = list(ablation.run(plan))
    assert [cell.failure for cell in cells] == ["RuntimeError: CUDA error: something", None]
    table = ablation.collect(plan.folder, "slices")
    assert table.values("inter-only", "gopro psnr") == [] and table.values("xyscannet", "gopro psnr")
    monkeypatch.setattr(Trainer, "run", train)
    assert [cell.failure for cell in ablation.run(plan)] == [None, None]


def test_other_settings_are_refused(gopro, tmp_path, monkeypatch):
    plan = make_plan(gopro, tmp_path / "runs", variants=("xyscannet",))
    (cell,) = ablation.run(plan)
    forbid(monkeypatch)
    for override, told in (
        ("optimiser.lr=1e-3", "optimiser.lr: 0.002 there, 0.001 now"),
        ("iterations=5", "iterations: 4 there, 5 now"),
        ("model.width=16", "model.width: 8 there, 16 now"),
    ):
        with pytest.raises(ConfigError, match=f"trained with other settings.*{told}.*--out"):
            list(ablation.run(make_plan(gopro, plan.folder, override, variants=("xyscannet",))))
    idle = make_plan(gopro, plan.folder, "log_every=1", "data.workers=2", variants=("xyscannet",))
    assert next(ablation.run(idle)).values == cell.values
    fewer = make_plan(gopro, plan.folder, limit=2, variants=("xyscannet",))
    with pytest.raises(ConfigError, match="measured with other settings.*images: 3 there, 2 now.*--fresh"):
        list(ablation.run(fewer))
    (other,) = ablation.run(replace(fewer, fresh=True))
    assert other.images == {"gopro": 2} and other.values != cell.values
    path = plan.folder / "intra-only" / "seed-0" / "slices.json"
    path.parent.mkdir(parents=True)
    held = json.loads((plan.home("xyscannet", 0) / "slices.json").read_text())
    held["settings"]["training"]["iterations"] = 9
    path.write_text(json.dumps(held | {"variant": "intra-only"}))
    with pytest.raises(ConfigError, match="do not belong in one table.*training.iterations"):
        ablation.collect(plan.folder, "slices")


def test_cells_of_several_machines_are_of_the_same_images_wherever_they_lie(gopro, tmp_path, monkeypatch):
    plan = make_plan(gopro, tmp_path / "runs", variants=("xyscannet",))
    (cell,) = ablation.run(plan)
    other = Path(shutil.copytree(gopro, tmp_path / "elsewhere" / "GoPro"))
    found, _ = ablation.find_sets("slices", {"gopro": str(other)})
    forbid(monkeypatch)
    assert next(ablation.run(replace(plan, sets=found))).values == cell.values
    picture(other / "test/b/blur/1.png", size=(32, 20), seed=9)
    found, _ = ablation.find_sets("slices", {"gopro": str(other)})
    with pytest.raises(ConfigError, match="measured with other settings.*samples_sha256"):
        next(ablation.run(replace(plan, sets=found)))


def test_an_unfinished_cell_of_other_settings_or_data_is_refused(gopro, tmp_path):
    plan = make_plan(gopro, tmp_path / "runs", variants=("xyscannet",))
    with pytest.raises(Interrupted):
        list(ablation.run(plan, ablation.Watcher(should_stop=lambda: True)))
    with pytest.raises(ConfigError, match="seed-0 was trained with other settings"):
        ablation.held(make_plan(gopro, plan.folder, "iterations=9", variants=("xyscannet",)))
    started = plan.home("xyscannet", 0) / "run.json"
    starts = json.loads(started.read_text())
    starts[-1]["data"]["sets"][0]["pairs"] = 7
    started.write_text(json.dumps(starts))
    with pytest.raises(ConfigError, match="trained with other settings"):
        list(ablation.run(plan))


def test_cells_are_trained_on_the_same_data_wherever_they_lie(gopro, tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "train_step", lambda self, _: setattr(self, "step", self.step + 1) or RECORD)
    first, second = (Path(shutil.copytree(gopro, tmp_path / name / "GoPro")) for name in "ab")
    plan = make_plan(gopro, tmp_path / "runs", "data.pairs=[{dataset: gopro}]", variants=("xyscannet",))
    for place, seeds in ((first, 1), (second, 2)):
        monkeypatch.setenv("XYSCAN_DATA", str(place.parent))
        assert [cell.failure for cell in ablation.run(replace(plan, seeds=seeds))] == [None] * seeds
    for role in ("blur", "sharp"):
        picture(second / f"train/a/{role}/3.png", size=(24, 20))
    with pytest.raises(
        ConfigError, match=r"seed-0 was trained with other settings \(sets.1.pairs: 2 there, 3 now"
    ):
        list(ablation.run(replace(plan, seeds=3)))


def test_costs_are_measured_anew_under_other_conditions(gopro, tmp_path, monkeypatch):
    plan = make_plan(gopro, tmp_path)
    told: list[str] = []
    first = ablation.profile(plan, (16, 16), repeats=1, memory=False, tell=told.append)
    assert set(first["figures"]) == {"inter-only", "xyscannet"} and told
    assert first["figures"]["xyscannet"]["training memory (GB)"] is None
    told.clear()
    assert ablation.profile(plan, (16, 16), repeats=1, memory=False, tell=told.append) == first and not told
    ablation.profile(plan, (16, 24), repeats=1, memory=False, tell=told.append)
    assert told
    told.clear()
    updated = replace(plan, facts=plan.facts | {"versions": {"torch": "99"}})
    record = ablation.profile(updated, (16, 24), repeats=1, memory=False, tell=told.append)
    assert told and record["conditions"]["versions"] == {"torch": "99"}
    costs_file(tmp_path, "slices").write_text("{")
    assert costs.read(costs_file(tmp_path, "slices")) is None


def test_costs_of_variants_that_are_measured_one_by_one_are_kept_together(gopro, tmp_path, monkeypatch):
    measured = []

    def measure(networks, conditions, tell):
        measured.append((*networks,))
        return {name: {"step seconds": len(measured)} for name in networks}

    monkeypatch.setattr(costs, "measure", measure)
    plan = make_plan(gopro, tmp_path)
    for variants in (["inter-only"], ["xyscannet"], ["inter-only"], ["inter-only", "xyscannet"]):
        record = ablation.profile(replace(plan, variants=variants), (16, 16))
    assert (
        measured == [("inter-only",), ("xyscannet",)] and costs.read(costs_file(tmp_path, "slices")) == record
    )
    assert {name: each["step seconds"] for name, each in record["figures"].items()} == {
        "inter-only": 1,
        "xyscannet": 2,
    }
    record = ablation.profile(replace(plan, variants=["xyscannet"]), (16, 24))
    assert set(record["figures"]) == {"xyscannet"}


def test_parts_of_a_step_are_counted(monkeypatch):
    monkeypatch.setattr(costs, "time_in_turn", lambda calls, **_: {name: costs_timing(2.0) for name in calls})
    at = costs.Conditions(16, 4, 2, 16, 16, "fp32", "cpu", "here", repeats=1, memory=False)
    network = XYScanNetConfig.from_dict(TINY)
    figures = costs.measure({"a": network}, at)["a"]
    assert figures["step seconds"] == 4 and figures["training time (s)"] == 4 * 2103 / 4
    assert figures["inference seconds"] == 2


def costs_timing(seconds: float):
    from xyscannet.analysis.timing import Timing

    return Timing((seconds,))


def test_counts_of_the_fusion_modules():
    columns = {"GMACs": "lower", "parameters (K)": "lower"}
    found = costs.counted(
        XYScanNetConfig(width=8, encoder_blocks=(0, 0, 0), decoder_blocks=(0, 0, 0)), columns
    )
    assert found["parameters (K)"] == pytest.approx(71.424 / 36) and found["GMACs"] > 0
    none = costs.counted(XYScanNetConfig(width=8, fusion="none"), columns)
    assert none["parameters (K)"] is None and none["GMACs"] is None


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


def test_images_that_cannot_be_measured_are_told(gopro, tmp_path, monkeypatch):
    for role in ("blur", "sharp"):
        for name in ("1", "2"):
            picture(tmp_path / "mine" / role / f"{name}.png")
    plan = make_plan(
        gopro, tmp_path / "runs", given={"mine": str(tmp_path / "mine")}, variants=("xyscannet",)
    )
    (tmp_path / "mine/blur/2.png").write_bytes(b"nothing")
    (cell,) = ablation.run(plan)
    assert cell.values["mine psnr"] is not None and len(cell.problems) == 1 and "2.png" in cell.problems[0]
    (tmp_path / "mine/blur/1.png").write_bytes(b"nothing")
    (plan.home("xyscannet", 0) / "slices.json").unlink()
    (cell,) = ablation.run(replace(plan, folder=tmp_path / "others"))
    assert "no image could be measured" in cell.failure


def test_given_sets():
    assert sets.parse_given(["gopro=a/b=c", "mine=d"]) == {"gopro": "a/b=c", "mine": "d"}
    for wrong in ("gopro", "=a", "a b=c", "a="):
        with pytest.raises(ConfigError, match="NAME=FOLDER"):
            sets.parse_given([wrong])
    with pytest.raises(ConfigError, match="twice"):
        sets.parse_given(["a=b", "a=c"])


def test_the_recipe_is_scaled_and_counted_in_iterations():
    short = ablation.recipe(200, ["data.patch=32"], CPU)
    assert (short.iterations, short.save_every, short.data.patch) == (200, 20, 32)
    assert ablation.recipe(200, ["save_every=7"], CPU).save_every == 7
    whole = ablation.recipe(None, [], CPU)
    assert (whole.iterations, whole.data.patch, whole.precision) == (394_312, 128, "fp32")
    assert ablation.recipe(None, ["precision=auto"], CPU).precision in ("fp32", "bf16")
    with pytest.raises(ConfigError, match="counted in iterations"):
        ablation.recipe(None, ["iterations=null", "time_budget_minutes=5"], CPU)


def test_a_folder_without_cells(tmp_path):
    with pytest.raises(UnavailableError, match="holds no cell of slices"):
        ablation.collect(tmp_path, "slices")
    with pytest.raises(UnavailableError, match="no folder"):
        ablation.collect(tmp_path / "absent", "slices")
    path = tmp_path / "xyscannet" / "seed-0" / "slices.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(InputError, match=r"slices\.json does not hold a cell"):
        ablation.collect(tmp_path, "slices")
