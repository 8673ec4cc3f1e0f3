"""Ablations of a tiny network on a tiny GoPro: cells are made once, go on, fail alone, and are never mixed."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.analysis.ablations import CPU, make_plan
from tests.data.miniature import picture
from xyscannet.analysis import ablation
from xyscannet.analysis.ablation import costs
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.training.loop import Interrupted, Trainer

pytest.importorskip("skimage", reason="PSNR needs scikit-image")
RECORD = {"loss": 1.0, "grad_norm": 1.0, "lr": 1e-3, "crops": 2}


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


def test_an_empty_column_has_the_reason_of_its_own_metric(gopro, tmp_path, monkeypatch):
    def fail(restored, sharp):
        raise ValueError("no luck")

    for name in ("psnr", "ssim"):
        monkeypatch.setattr(f"xyscannet.metrics.distortion.{name}", fail)
    plan = make_plan(gopro, tmp_path / "runs", variants=("xyscannet",))
    both = {"gopro psnr": "psnr", "gopro ssim": "ssim"}
    (cell,) = ablation.run(replace(plan, sets=[replace(plan.sets[0], metrics=both)]))
    assert {column: cell.gaps[column].split(": ")[1] for column in both} == both


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
