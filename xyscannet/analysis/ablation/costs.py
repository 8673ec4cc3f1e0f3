"""What a variant costs: parameters and work by counting, time and memory by measuring all variants in turn."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from xyscannet import checkpoint, ops
from xyscannet.analysis import cases
from xyscannet.analysis.bench import peak_of
from xyscannet.analysis.cases import Case
from xyscannet.analysis.complexity import count
from xyscannet.analysis.timing import Once, time_in_turn
from xyscannet.files import write_text
from xyscannet.models import XYScanNetConfig, zoo

EPOCH = 2103
"""Images of GoPro's training split: what an epoch of the paper's ablations is."""
COUNTED_AT = (256, 256)
KINDS = ("step", "inference")


@dataclass(frozen=True)
class Conditions:
    """How costs are measured.

    Attributes:
        patch, batch, accumulate: of a training step, which is done in `accumulate` parts.
        height, width: of the image of an inference.
        dtype: "fp32" or "bf16".
        device: torch's name of it.
        machine, versions: its name, and those of the packages: measurements of two machines, or before and after an
            update, are not mixed.
        repeats: the median of so many is taken.
        memory: measure peak memory too.
    """

    patch: int
    batch: int
    accumulate: int
    height: int
    width: int
    dtype: str
    device: str
    machine: str
    versions: Mapping[str, str] = field(default_factory=dict)
    repeats: int = 5
    memory: bool = True


def measure(
    networks: Mapping[str, XYScanNetConfig],
    conditions: Conditions,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, float | None]]:
    """Seconds and bytes of a training step and of an inference, by variant; None where there was too little memory.

    Under "step seconds", "step bytes", "inference seconds" and "inference bytes", and as the paper's columns: training
    time is an epoch of 2103 crops, memory is in units of 10^9 bytes.
    """
    at = conditions
    device = torch.device(at.device)
    made: dict[str, dict[str, float | None]] = {name: {} for name in networks}
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(cases.SEED)  # and no GPU's
        for name, network in networks.items():
            checkpoint.save(Path(folder, f"{name}.safetensors"), zoo.build(network), network)
        for kind in KINDS:
            run = {name: _case(Path(folder, f"{name}.safetensors"), at, kind) for name in networks}
            tell(f"time of a training {kind}" if kind == "step" else f"time of an {kind}")
            calls = {n: Once(partial(cases.call, cases.load(c.model, device)[0], c)) for n, c in run.items()}
            timings = time_in_turn(calls, repeats=at.repeats, device=device)
            calls.clear()
            for name, case in run.items():
                seconds = timings[name].median
                parts = at.accumulate if kind == "step" else 1
                made[name][f"{kind} seconds"] = None if seconds is None else seconds * parts
                made[name][f"{kind} bytes"] = None
                if at.memory and seconds:
                    tell(f"memory of {name}")
                    made[name][f"{kind} bytes"] = peak_of(case, device, tell)
    for figures in made.values():
        figures |= _in_columns(figures, at)
    return made


def counted(network: XYScanNetConfig, columns: Mapping[str, str]) -> dict[str, float | None]:
    """Parameters and, where a column wants it, the work of the fusion modules at 256 x 256."""
    with torch.device("meta"):
        model = zoo.build(network)
    weights = {name: p.numel() for name, p in model.named_parameters()}
    fusion = sum(size for name, size in weights.items() if name.startswith("fusion_level"))
    figures: dict[str, float | None] = {"parameters (M)": sum(weights.values()) / 1e6}
    if "parameters (K)" in columns:
        figures["parameters (K)"] = fusion / 1e3 if fusion else None
    if "GMACs" in columns:
        figures["GMACs"] = count(network, *COUNTED_AT).fusion_macs / 1e9 if fusion else None
    return figures


def keep(
    path: Path, networks: Mapping[str, XYScanNetConfig], conditions: Conditions, found: Mapping[str, Any]
) -> dict[str, Any]:
    """Write what was measured, and of what, beside what is kept of other variants under the same conditions.

    The record is returned. Raises InputError.
    """
    record = {"networks": {}, "conditions": asdict(conditions), "figures": {}}
    before = read(path)
    if before is not None and before["conditions"] == record["conditions"]:
        record = before
    record["networks"] |= {name: network.to_dict() for name, network in networks.items()}
    record["figures"] |= found
    write_text(path, json.dumps(record, indent=1) + "\n")
    return record


def read(path: Path) -> dict[str, Any] | None:
    """What `keep` wrote; None where there is nothing."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if all(record[key] for key in ("networks", "conditions", "figures")) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def holds(record: Mapping[str, Any], networks: Mapping[str, XYScanNetConfig], conditions: Conditions) -> bool:
    """Whether a record has all times of these networks under these conditions."""
    kept, figures = record["networks"], record["figures"]
    return record["conditions"] == asdict(conditions) and all(
        kept.get(name) == network.to_dict() and all(figures[name][f"{kind} seconds"] for kind in KINDS)
        for name, network in networks.items()
    )


def _case(path: Path, at: Conditions, kind: str) -> Case:
    scan = ops.active_backend(torch.device(at.device).type)
    if kind == "step":
        part = at.batch // at.accumulate
        return Case(str(path), at.patch, at.patch, at.dtype, scan, "unfused", part, train=True)
    return Case(str(path), at.height, at.width, at.dtype, scan)


def _in_columns(figures: Mapping[str, float | None], at: Conditions) -> dict[str, float | None]:
    def scaled(name: str, factor: float) -> float | None:
        value = figures[name]
        return None if value is None else value * factor

    return {
        "training time (s)": scaled("step seconds", EPOCH / at.batch),
        "training memory (GB)": scaled("step bytes", 1e-9),
        "inference time (s)": scaled("inference seconds", 1),
        "inference memory (GB)": scaled("inference bytes", 1e-9),
    }
