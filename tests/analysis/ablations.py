"""Plans of ablations of a tiny network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from xyscannet.analysis import ablation

CPU = torch.device("cpu")
TINY = {"width": 8, "encoder_blocks": [1, 0, 0], "decoder_blocks": [1, 0, 0], "d_state": 4}


def make_plan(gopro: Path, folder: Path, *overrides: str, **changes) -> ablation.Plan:
    settings = [f"data.pairs=[{{dataset: gopro, root: {gopro}}}]", "validation.pairs=null", "data.patch=16"]
    settings += [f"model={json.dumps(TINY)}", "data.batch=2", "loss.contrastive=0", "tensorboard=false"]
    recipe = ablation.recipe(4, [*settings, "optimiser.lr=2e-3", "data.prefetch=1", *overrides], CPU)
    given = {"gopro": str(gopro)}
    found, gaps = ablation.find_sets("slices", changes.pop("given", given), limit=changes.pop("limit", None))
    plan = ablation.Plan("slices", folder, recipe, ("inter-only", "xyscannet"), 1, found, gaps, CPU)
    return replace(plan, facts={"machine": "here", "command": "xyscan ablate slices"}, **changes)
