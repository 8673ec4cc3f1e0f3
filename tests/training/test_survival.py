"""A run survives what happens to long runs: a full disk, a damaged state, several states, other processes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.limits import FullDisk
from tests.training.conftest import DrawnPairs, full_between
from tests.training.test_loop import Spoilt, assert_same, drawn_validation, log_of, newest
from xyscan_cli.commands._train_report import draw_curves
from xyscannet import checkpoint
from xyscannet.errors import ConfigError, InputError
from xyscannet.training.config import TrainConfig
from xyscannet.training.loop import DivergedError, Interrupted, Trainer
from xyscannet.training.recipes import parse_config
from xyscannet.training.record import RunFolder
from xyscannet.training.state import find_state, states


def test_a_full_disk_keeps_the_last_good_state_and_training_goes_on(tiny: dict, run_folder: Path) -> None:
    heard: list[dict] = []
    config = parse_config({**tiny, "iterations": 10, "save_every": 3, "log_every": 5})
    trainer = Trainer(config, run_folder, samples=DrawnPairs(), on_event=heard.append)
    with full_between(trainer, 3, 7, size=100_000):  # less than a state
        trainer.run()
    assert [(e["event"], e["step"]) for e in heard if "saved" in e["event"]] == [
        ("saved", 3),
        ("not saved", 6),
        ("saved", 9),
        ("saved", 10),
    ]
    assert "untouched" in next(e["reason"] for e in heard if e["event"] == "not saved")
    assert newest(run_folder)["step"] == 10
    assert not list(run_folder.glob(".*"))


def test_a_last_state_that_cannot_be_written_is_an_error_and_the_one_before_stays(
    tiny_config: TrainConfig, run_folder: Path
) -> None:
    heard: list[dict] = []
    trainer = Trainer(tiny_config, run_folder, samples=DrawnPairs(), on_event=heard.append)
    with full_between(trainer, 4, size=100_000), pytest.raises(InputError, match="saved before is untouched"):
        trainer.run()
    assert newest(run_folder)["step"] == 3
    assert checkpoint.read(run_folder / "last.safetensors").metadata["step"] == "6"  # there is room for these
    assert [event["step"] for event in heard if event["event"] == "not saved"] == [
        6
    ]  # not once more after the error


def test_the_last_states_are_kept_and_a_damaged_one_is_passed_over(
    tiny: dict, run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = parse_config({**tiny, "save_every": 1, "keep_states": 3})
    Trainer(config, run_folder, samples=DrawnPairs()).run()
    kept = states(run_folder)
    assert [path.name for path in kept] == [f"state-{step:07d}.pt" for step in (6, 5, 4)]
    kept[0].write_bytes(kept[0].read_bytes()[:3000])
    assert find_state("auto", run_folder)["step"] == 5
    assert "going on from the one before" in caplog.text
    longer = parse_config({**tiny, "save_every": 1, "iterations": 7})
    Trainer(longer, run_folder, samples=DrawnPairs(), resume="auto").run()
    assert newest(run_folder)["step"] == 7
    with pytest.raises(InputError, match="cannot be read"):
        kept[2].write_bytes(b"nothing")
        find_state(kept[2], run_folder)


def test_auto_starts_where_there_is_no_run(tiny_config: TrainConfig, run_folder: Path) -> None:
    trainer = Trainer(tiny_config, run_folder, samples=DrawnPairs(), resume="auto")
    assert trainer.step == 0
    with pytest.raises(ConfigError, match="nothing to resume"):
        Trainer(tiny_config, run_folder, samples=DrawnPairs(), resume=run_folder / "elsewhere")


def test_resume_from_another_runs_state(tiny_config: TrainConfig, tmp_path: Path) -> None:
    Trainer(tiny_config, tmp_path / "first", samples=DrawnPairs()).run()
    state = tmp_path / "first" / "state-0000003.pt"
    trainer = Trainer(tiny_config, tmp_path / "second", samples=DrawnPairs(), resume=state)
    assert trainer.step == 3
    trainer.run()
    assert_same(newest(tmp_path / "first")["model"], newest(tmp_path / "second")["model"])


def test_best_is_remembered_across_resumes(tiny_config: TrainConfig, run_folder: Path) -> None:
    first = Trainer(tiny_config, run_folder, samples=DrawnPairs(), validation=drawn_validation())
    first._should_stop = lambda: first.step == 3
    with pytest.raises(Interrupted):
        first.run()
    state = newest(run_folder)
    torch.save({**state, "best": 99.0}, run_folder / "state-0000003.pt")
    before = (run_folder / "best.safetensors").read_bytes()
    Trainer(tiny_config, run_folder, samples=DrawnPairs(), validation=drawn_validation(), resume="auto").run()
    assert not log_of(run_folder, "validation")[-1]["best"]
    assert (run_folder / "best.safetensors").read_bytes() == before


def test_divergence_names_the_files_in_the_log(tiny_config: TrainConfig, run_folder: Path) -> None:
    with pytest.raises(DivergedError):
        Trainer(tiny_config, run_folder, samples=DrawnPairs(spoil=1)).run()
    assert log_of(run_folder, "diverged")[0]["origin"] == ["step 1 item 0", "step 1 item 1"]


def test_divergence_on_a_full_disk_is_still_divergence(tiny_config: TrainConfig, run_folder: Path) -> None:
    heard: list[dict] = []
    trainer = Trainer(tiny_config, run_folder, samples=DrawnPairs(spoil=1), on_event=heard.append)
    named = r"step 1: the loss .* of step 1 item 0, step 1 item 1, and could not be saved \(.*system allows"
    with full_between(trainer, 1, size=1000), pytest.raises(DivergedError, match=named):
        trainer.run()
    assert heard[-1]["event"] == "diverged"
    assert not list(run_folder.glob("diverged*")) and not list(run_folder.glob(".*"))


def test_parts_of_a_step_make_the_same_step(tiny: dict, tmp_path: Path) -> None:
    tiny = {
        **tiny,
        "data": {**tiny["data"], "batch": 4},
        "optimiser": {"lr": 1e-3, "eps": 1e-3},
        "iterations": 4,
    }
    whole = Trainer(parse_config(tiny), tmp_path / "whole", samples=DrawnPairs())
    parted = Trainer(parse_config({**tiny, "accumulate": 2}), tmp_path / "parted", samples=DrawnPairs())
    whole.run()
    parted.run()
    for one, other in zip(whole.model.parameters(), parted.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)
    with pytest.raises(ConfigError, match="does not divide"):
        Trainer(parse_config({**tiny, "accumulate": 3}), tmp_path / "odd", samples=DrawnPairs())


def test_every_stage_leaves_its_weights(tiny: dict, run_folder: Path) -> None:
    stages = [{"until": 0.5, "patch": 16, "batch": 2}, {"until": 1, "patch": 32, "batch": 2}]
    Trainer(parse_config({**tiny, "stages": stages}), run_folder, samples=DrawnPairs()).run()
    steps = [checkpoint.read(run_folder / f"stage-{n}.safetensors").metadata["step"] for n in (1, 2)]
    assert steps == ["3", "6"]


def test_a_kill_after_a_state_costs_no_stages_weights(tiny: dict, run_folder: Path) -> None:
    stages = [{"until": 0.5, "patch": 16, "batch": 2}, {"until": 1, "patch": 32, "batch": 2}]
    config = parse_config({**tiny, "stages": stages})
    killed = Trainer(config, run_folder, samples=DrawnPairs())
    save = killed.save

    def save_and_end(**options: bool) -> None:
        save(**options)
        raise SystemExit

    killed.save = save_and_end
    with pytest.raises(SystemExit):
        killed.run()
    Trainer(config, run_folder, samples=DrawnPairs(), resume="auto").run()
    assert checkpoint.read(run_folder / "stage-1.safetensors").metadata["step"] == "3"


def test_a_validation_that_fails_costs_no_stages_weights(tiny: dict, run_folder: Path) -> None:
    stages = [{"until": 0.5, "patch": 16, "batch": 2}, {"until": 1, "patch": 32, "batch": 2}]
    spoilt = Spoilt(**vars(drawn_validation()))
    with pytest.raises(InputError, match="truncated"):
        Trainer(
            parse_config({**tiny, "stages": stages}), run_folder, samples=DrawnPairs(), validation=spoilt
        ).run()
    assert newest(run_folder)["step"] == 3
    assert checkpoint.read(run_folder / "stage-1.safetensors").metadata["step"] == "3"


def test_tensorboard_gets_numbers_and_restored_images(tiny: dict, run_folder: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config, validation = parse_config({**tiny, "tensorboard": True}), drawn_validation()
    validation = replace(validation, names=("first", "\udcff.png"))  # one is no text
    Trainer(config, run_folder, samples=DrawnPairs(), validation=validation).run()
    read = events.EventAccumulator(str(run_folder / "tensorboard"))
    read.Reload()
    assert [event.step for event in read.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    wanted = [record["psnr"] for record in log_of(run_folder, "validation")]
    assert [event.value for event in read.Scalars("validation/psnr")] == pytest.approx(wanted, rel=1e-6)
    assert [image.step for image in read.Images("validation/first")] == [3, 6]
    assert read.Images("validation/first")[0].width == 3 * 40


def test_tensorboard_forgets_a_run_that_was_killed_before_its_first_state(
    tiny: dict, run_folder: Path
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = parse_config({**tiny, "tensorboard": True})
    killed = Trainer(config, run_folder, samples=DrawnPairs())
    killed._should_stop = lambda: killed.step == 2 and sys.exit()
    with pytest.raises(SystemExit):
        killed.run()
    Trainer(config, run_folder, samples=DrawnPairs()).run()
    read = events.EventAccumulator(str(run_folder / "tensorboard"))
    read.Reload()
    assert [event.step for event in read.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's
def test_a_disk_too_full_for_tensorboard_does_not_stop_the_run(
    tiny: dict, run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    config = parse_config({**tiny, "tensorboard": True, "iterations": 9})
    trainer = Trainer(config, run_folder, samples=DrawnPairs(), validation=drawn_validation())
    with full_between(trainer, 1, 7, size=100):
        trainer.run()
    assert caplog.text.count("training goes on without") == 1
    assert newest(run_folder)["step"] == 9


def test_a_log_that_cannot_be_written_does_not_stop_the_run(
    tiny_config: TrainConfig, run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = Trainer(tiny_config, run_folder, samples=DrawnPairs())

    def spoil() -> bool:
        if trainer.step == 2:
            (run_folder / "log.jsonl").unlink()
            (run_folder / "log.jsonl").mkdir()
        return False

    trainer._should_stop = spoil
    trainer.run()
    assert caplog.text.count("training goes on") == 1
    assert newest(run_folder)["step"] == 6
    assert json.loads((run_folder / "run.json").read_text())[0]["processes"] == 1


def test_a_record_that_a_full_disk_cuts_off_spoils_neither_the_next_nor_the_plot(
    tiny_config: TrainConfig, run_folder: Path
) -> None:
    pytest.importorskip("matplotlib")
    log = RunFolder(run_folder)
    log.begin(tiny_config, command="", step=0, device=torch.device("cpu"), facts={})
    step = {"event": "step", "progress": 0.5, "loss": 1.0, "lr": 1e-3, "grad_norm": 1.0}
    with FullDisk(30):
        log.log({**step, "step": 1})
    for number in (2, 3):
        log.log({**step, "step": number})
    cut_off, *lines = (run_folder / "log.jsonl").read_text().splitlines()
    assert cut_off == '{"event": "step", "progress": ' and [json.loads(line)["step"] for line in lines] == [
        2,
        3,
    ]
    draw_curves(run_folder, "tiny")
    assert (run_folder / "curves.png").stat().st_size > 5000
