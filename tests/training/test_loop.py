from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml

from tests.training.conftest import DrawnPairs
from xyscannet import checkpoint
from xyscannet.errors import ConfigError, InputError
from xyscannet.training.config import TrainConfig
from xyscannet.training.loop import DivergedError, Interrupted, Trainer
from xyscannet.training.recipes import load_config, parse_config
from xyscannet.training.samples import Batch
from xyscannet.training.state import find_state, state_path
from xyscannet.training.validate import ValidationSet


def drawn_validation() -> ValidationSet:
    batch = DrawnPairs().make(10_000, 40, 2, range(2))
    return ValidationSet(
        ("first", "second"),
        tuple((image * 255).round().to(torch.uint8) for image in batch.blur),
        tuple((image * 255).round().to(torch.uint8) for image in batch.sharp),
    )


class Spoilt(ValidationSet):
    def item(self, index: int) -> tuple[str, torch.Tensor, torch.Tensor]:
        if index == 1:
            raise InputError("second.png: truncated")
        return super().item(index)


def newest(folder: Path) -> dict:
    return find_state(folder, folder)


def log_of(folder: Path, event: str) -> list[dict]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == event]


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_resumed_run_is_bit_for_bit_the_uninterrupted_one(tiny_config: TrainConfig, tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    Trainer(tiny_config, whole, samples=DrawnPairs()).run()
    first = Trainer(tiny_config, parted, samples=DrawnPairs())
    first._should_stop = lambda: first.step == 3
    with pytest.raises(Interrupted):
        first.run()
    torch.manual_seed(99)
    pairs = DrawnPairs()
    Trainer(tiny_config, parted, samples=pairs, resume="auto").run()
    assert pairs.made[0] == 3
    expected, found = newest(whole), newest(parted)
    assert found["step"] == 6
    assert_same(expected["model"], found["model"])
    assert_same(expected["ema"], found["ema"])
    for one, other in zip(
        expected["optimiser"]["state"].values(), found["optimiser"]["state"].values(), strict=True
    ):
        assert_same(one, other)
    losses = [[record["loss"] for record in log_of(folder, "step")] for folder in (whole, parted)]
    assert losses[0] == losses[1] and len(losses[0]) == 6


class OnePair(DrawnPairs):
    """The same batch at every step, so that losses compare."""

    def make(self, step: int, patch: int, batch: int, items: Sequence[int]) -> Batch:
        return super().make(10_000, 40, batch, items)


# A step of Muon on small matrices is a fifth as large as one of Adam whose gradients agree, as they do here.
@pytest.mark.parametrize(("kind", "lr"), [("adam", 2e-3), ("adamw", 2e-3), ("muon", 1e-2)])
def test_a_short_run_lowers_the_loss_and_restores_better(
    tiny: dict, run_folder: Path, kind: str, lr: float
) -> None:
    changes = {"optimiser": {**tiny["optimiser"], "kind": kind, "lr": lr}, "validation": {"every": 80}}
    config = parse_config({**tiny, **changes, "iterations": 80, "save_every": 80})
    figures = Trainer(config, run_folder, samples=OnePair(), validation=drawn_validation()).run()
    losses = [record["loss"] for record in log_of(run_folder, "step")]
    assert losses[-1] < 0.9 * losses[0]
    assert figures["psnr"] > figures["psnr_blur"] + 0.3


def test_best_weights_are_the_average_of_the_best_validation(tiny: dict, run_folder: Path) -> None:
    trainer = Trainer(parse_config(tiny), run_folder, samples=DrawnPairs(), validation=drawn_validation())
    trainer.run()
    records = log_of(run_folder, "validation")
    assert [record["step"] for record in records] == [3, 6]
    best = max(records, key=lambda record: record["psnr"])
    saved = checkpoint.read(run_folder / "best.safetensors")
    assert saved.metadata["step"] == str(best["step"])
    assert float(saved.metadata["psnr"]) == pytest.approx(best["psnr"], abs=1e-3)
    assert newest(run_folder)["best"] == best["psnr"]
    last = checkpoint.read(run_folder / "last.safetensors")
    assert_same(dict(trainer.ema.module.state_dict()), dict(last.state))


def test_log_has_what_a_reader_of_the_run_needs(tiny_config: TrainConfig, run_folder: Path) -> None:
    heard = []
    Trainer(
        tiny_config, run_folder, samples=DrawnPairs(), on_event=heard.append, command="xyscan train"
    ).run()
    step = log_of(run_folder, "step")[-1]
    assert {"loss", "lr", "grad_norm", "seconds", "crops_per_s", "data_wait"} <= step.keys()
    assert [event["event"] for event in heard].count("step") == 6
    (run,) = json.loads((run_folder / "run.json").read_text())
    assert run["command"] == "xyscan train" and run["data"] == {"kind": "drawn"}
    assert parse_config(yaml.safe_load((run_folder / "config.yaml").read_text())) == tiny_config


def test_resume_forgets_the_records_after_the_saved_step(tiny: dict, run_folder: Path) -> None:
    config = parse_config({**tiny, "save_every": 4})
    trainer = Trainer(config, run_folder, samples=DrawnPairs(spoil=5))
    with pytest.raises(DivergedError):
        trainer.run()
    assert [record["step"] for record in log_of(run_folder, "step")] == [1, 2, 3, 4, 5]
    Trainer(config, run_folder, samples=DrawnPairs(), resume="auto").run()
    assert [record["step"] for record in log_of(run_folder, "step")] == [1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in json.loads((run_folder / "run.json").read_text())] == [0, 4]


def test_not_finite_stops_with_the_batch_saved(tiny_config: TrainConfig, run_folder: Path) -> None:
    with pytest.raises(DivergedError, match="step 4.*not finite.*diverged.pt"):
        Trainer(tiny_config, run_folder, samples=DrawnPairs(spoil=4)).run()
    report = torch.load(run_folder / "diverged.pt", weights_only=True)
    assert report["origin"] == ["step 4 item 0", "step 4 item 1"]
    assert report["blur"].isnan().sum() == 1
    state = newest(run_folder)
    assert state["step"] == 3
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_an_existing_run_is_not_overwritten(tiny_config: TrainConfig, run_folder: Path) -> None:
    Trainer(tiny_config, run_folder, samples=DrawnPairs()).run()
    with pytest.raises(ConfigError, match="--resume"):
        Trainer(tiny_config, run_folder, samples=DrawnPairs())


def test_folder_that_cannot_be_written_is_an_error(tiny_config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="folder"):
        Trainer(tiny_config, tmp_path / "file" / "run", samples=DrawnPairs()).run()


def test_resume_needs_a_state_of_the_same_network_and_seed(tiny: dict, run_folder: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to resume"):
        Trainer(parse_config(tiny), run_folder, samples=DrawnPairs(), resume=run_folder)
    Trainer(parse_config(tiny), run_folder, samples=DrawnPairs()).run()
    wider = parse_config({**tiny, "model": {**tiny["model"], "width": 12}})
    with pytest.raises(ConfigError, match="another network"):
        Trainer(wider, run_folder, samples=DrawnPairs(), resume="auto")
    with pytest.raises(ConfigError, match="seed 0, not 1"):
        Trainer(parse_config({**tiny, "seed": 1}), run_folder, samples=DrawnPairs(), resume="auto")
    state = newest(run_folder)
    torch.save({**state, "config": {**state["config"], "novel": 1}}, state_path(run_folder, state["step"]))
    with pytest.raises(ConfigError, match="the state to resume: unknown key 'novel'"):
        Trainer(parse_config(tiny), run_folder, samples=DrawnPairs(), resume="auto")


def test_time_budget_ends_the_run_and_drives_the_rate(tiny: dict, run_folder: Path) -> None:
    config = parse_config(
        {
            **tiny,
            "iterations": None,
            "time_budget_minutes": 2 / 60,
            "save_every": 10_000,
            "validation": {"every": 9999},
        }
    )
    trainer = Trainer(config, run_folder, samples=DrawnPairs())
    trainer.run()
    steps = log_of(run_folder, "step")
    assert 2 < trainer.elapsed < 10
    # The last step's rate is that of the time before it: how near to zero depends on how long a step takes.
    assert steps[-1]["lr"] < 0.3 * max(record["lr"] for record in steps)
    assert newest(run_folder)["elapsed"] == trainer.elapsed
    again = Trainer(config, run_folder, samples=DrawnPairs(), resume="auto")
    again.run()
    assert again.step == trainer.step


def test_every_weight_moves_however_small_its_gradient(tiny: dict, run_folder: Path) -> None:
    trainer = Trainer(parse_config({**tiny, "iterations": 12}), run_folder, samples=DrawnPairs())
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.run()
    moved = {
        name: (value - before[name]).abs().mean().item() for name, value in trainer.model.named_parameters()
    }
    assert {name: value for name, value in moved.items() if value < 1e-4} == {}


def test_resumed_optimiser_follows_the_configuration(tiny: dict, run_folder: Path) -> None:
    Trainer(parse_config(tiny), run_folder, samples=DrawnPairs()).run()
    changed = parse_config({**tiny, "optimiser": {"lr": 1e-3, "eps": 1e-9, "betas": [0.9, 0.99]}})
    trainer = Trainer(changed, run_folder, samples=DrawnPairs(), resume="auto")
    assert {(group["eps"], group["betas"]) for group in trainer.optimiser.param_groups} == {
        (1e-9, (0.9, 0.99))
    }


def test_bf16_keeps_fp32_weights_and_learns(tiny: dict, run_folder: Path) -> None:
    trainer = Trainer(parse_config({**tiny, "precision": "bf16"}), run_folder, samples=DrawnPairs())
    trainer.run()
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    assert all(math.isfinite(record["loss"]) for record in log_of(run_folder, "step"))


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_is_the_faster_one(
    tiny: dict, run_folder: Path, monkeypatch: pytest.MonkeyPatch, fast: bool, precision: str
) -> None:
    monkeypatch.setattr("xyscannet.training.update.bf16_is_fast", lambda device: fast)
    trainer = Trainer(parse_config({**tiny, "precision": "auto"}), run_folder, samples=DrawnPairs())
    with trainer.update.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    trainer.run()
    assert json.loads((run_folder / "run.json").read_text())[0]["precision"] == precision


def test_slow_bf16_is_told(
    tiny: dict, run_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("xyscannet.training.update.bf16_is_fast", lambda device: False)
    Trainer(parse_config({**tiny, "precision": "bf16"}), run_folder, samples=DrawnPairs())
    assert "much slower than fp32" in caplog.text


@pytest.mark.parametrize("recipe", ["default-s", "default-b"])
def test_recipes_of_the_embedded_weights_suit_any_machine(recipe: str) -> None:
    assert load_config(recipe).precision == "auto"


def test_snapshots_are_kept_as_many_as_asked(tiny: dict, run_folder: Path) -> None:
    config = parse_config({**tiny, "save_every": 2, "keep_last": 2})
    Trainer(config, run_folder, samples=DrawnPairs()).run()
    kept = sorted(path.name for path in run_folder.glob("step-*.safetensors"))
    assert kept == ["step-0000004.safetensors", "step-0000006.safetensors"]


def test_start_from_takes_the_weights_and_nothing_else(tiny: dict, tmp_path: Path, memory) -> None:
    first = Trainer(parse_config(tiny), tmp_path / "first", samples=DrawnPairs())
    first.run()
    weights = str(tmp_path / "first" / "last.safetensors")
    second = Trainer(parse_config({**tiny, "start_from": weights}), tmp_path / "second", samples=DrawnPairs())
    assert second.step == 0
    assert_same(dict(first.ema.module.state_dict()), dict(second.model.state_dict()))
    assert all(parameter.requires_grad for parameter in second.model.parameters())
    memory.put_file(weights, "/box/last.safetensors")
    there = {**tiny, "start_from": "memory://box/last.safetensors"}
    third = Trainer(parse_config(there), tmp_path / "third", samples=DrawnPairs())
    assert_same(dict(second.model.state_dict()), dict(third.model.state_dict()))
