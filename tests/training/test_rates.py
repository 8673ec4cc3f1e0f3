"""What a dry run measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.conftest import DrawnPairs
from xyscannet.training.config import TrainConfig
from xyscannet.training.loop import Trainer
from xyscannet.training.rates import Rates, measure
from xyscannet.training.recipes import parse_config


def steps_of(trainer: Trainer, **options: float) -> int:
    """Training steps that measuring takes."""
    train, taken = trainer.train_step, []
    trainer.train_step = lambda ready: taken.append(ready) or train(ready)
    measure(trainer, steps=3, warmup=2, **options)
    return len(taken)


@pytest.mark.parametrize(("one_is_slow", "patience", "steps"), [(True, 1e9, 2), (False, 0.0, 5)])
def test_processes_agree_on_the_number_of_steps(
    one_is_slow: bool, patience: float, steps: int, tiny_config: TrainConfig, run_folder: Path
) -> None:
    """Each step waits for all: whether there are more is not for one process's clock to say."""
    trainer = Trainer(tiny_config, run_folder, samples=DrawnPairs())
    trainer.processes.any = lambda flag: one_is_slow
    assert steps_of(trainer, patience=patience) == steps


def test_a_time_budget_is_measured_where_it_goes_on(tiny: dict, run_folder: Path) -> None:
    stages = [{"until": 0.5, "patch": 16, "batch": 4}, {"until": 1, "patch": 24, "batch": 2}]
    config = parse_config({**tiny, "iterations": None, "time_budget_minutes": 10, "stages": stages})
    trainer = Trainer(config, run_folder, samples=DrawnPairs())
    trainer._clock_zero -= 400
    rates = measure(trainer, steps=1, warmup=1)
    assert (rates.patch, rates.batch) == (24, 2)
    assert rates.device_crops_per_s == pytest.approx(2 / rates.step_seconds)


def test_the_device_waits_for_a_slower_loader() -> None:
    slower, faster = (Rates(16, 4, loader, 40.0, 0.1, None) for loader in (30.0, 50.0))
    assert slower.to_dict()["data_wait"] == pytest.approx(0.25) and faster.data_wait == 0
