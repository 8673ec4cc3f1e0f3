"""What decides an ablation's values: the recipe that all variants are trained with, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from xyscannet.analysis.ablation.variants import OURS
from xyscannet.errors import ConfigError
from xyscannet.inference import pick_dtype
from xyscannet.training.config import TrainConfig, network_config
from xyscannet.training.recipes import load_config, parse_config

RECIPE = "ablation"
IDLE = ("name", "seed", "log_every", "save_every", "keep_states", "keep_last", "tensorboard", "validation")
"""Keys that change nothing about the trained weights, or that a cell sets for itself."""
IDLE_DATA = ("validation", "workers", "prefetch", "cache_megapixels")
SHOWN = 3


def recipe(iterations: int | None, overrides: Sequence[str], device: torch.device) -> TrainConfig:
    """The recipe `ablation`, or of so many iterations, with `key=value` overrides and the device's precision.

    A shorter run saves and logs more often. Raises ConfigError.
    """
    scaled = []
    if iterations is not None:
        whole = load_config(RECIPE)
        scaled = [
            f"iterations={iterations}",
            f"save_every={max(1, min(whole.save_every, iterations // 10))}",
            f"log_every={max(1, min(whole.log_every, iterations // 20))}",
            f"validation.every={max(1, min(whole.validation.every, iterations))}",
        ]
    config = load_config(RECIPE, [*scaled, *overrides])
    if config.iterations is None:
        raise ConfigError(
            "an ablation is counted in iterations: a time budget would give each variant others"
        )
    if config.precision == "auto":
        fast = pick_dtype(device) is torch.bfloat16
        config = parse_config(config.model_dump(mode="json") | {"precision": "bf16" if fast else "fp32"})
    return config


def training_settings(config: TrainConfig) -> dict[str, Any]:
    """What decides the trained weights of every variant alike: `config` without `IDLE` keys, the network's size."""
    values = config.model_dump(mode="json")
    data = {key: value for key, value in values["data"].items() if key not in IDLE_DATA}
    size = {k: v for k, v in network_config(config.model).to_dict().items() if k not in OURS}
    return {k: v for k, v in values.items() if k not in IDLE} | {"data": data, "model": size}


def differences(there: Any, here: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """(dotted key, value there, value here) of everything that differs between two nested mappings."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        names = dict.fromkeys([*there, *here])
        inner = (differences(there.get(n), here.get(n), f"{key}.{n}" if key else str(n)) for n in names)
        return [each for found in inner for each in found]
    return [] if there == here else [(key, there, here)]


def told(found: Sequence[tuple[str, Any, Any]]) -> str:
    """Differences in words, the first ones."""
    parts = [f"{key}: {there} there, {here} now" for key, there, here in found[:SHOWN]]
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "; ".join([*parts, *more])
