"""Where the time of a network goes: every operator's time in one profiled call, and the memory it moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from xyscannet.analysis import forms as execution
from xyscannet.analysis.cases import Case, call, load, suit
from xyscannet.analysis.timing import copy_bandwidth, time_in_turn
from xyscannet.errors import ConfigError, UnavailableError


@dataclass(frozen=True)
class Spent:
    """All calls of one operator in one forward or training step: seconds, and bytes of their inputs and outputs."""

    operator: str
    calls: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Trace:
    """A profiled case.

    Attributes:
        seconds: median of calls that were not profiled.
        operators: the slowest first. On a GPU their time there, on a CPU their time under the profiler, which slows
            short ones down.
        bandwidth: bytes a second of a copy of a large tensor.
    """

    case: Case
    seconds: float
    operators: tuple[Spent, ...]
    bandwidth: float

    @property
    def bytes(self) -> int:
        return sum(spent.bytes for spent in self.operators)

    @property
    def floor(self) -> float:
        """Seconds in which a copy moves as much as these operators do."""
        return self.bytes / self.bandwidth


def trace(case: Case, path: str | Path, *, device: torch.device | str = "cpu", repeats: int = 5) -> Trace:
    """Profile one call of the case and write its timeline to `path`, for chrome://tracing or Perfetto.

    Raises:
        ConfigError, UnavailableError: the form cannot be traced (its operators are out of sight), cannot run here,
            or there is too little memory.
    """
    device = torch.device(device)
    if case.form in ("graph", "compiled"):
        raise ConfigError(f"--trace: the form {case.form} hides its operators; trace fused or unfused")
    model, _ = load(case.model, device)
    case = suit(case, model)
    execution.check(case.form, model, device, case.train)
    run = call(model, case)
    seconds = time_in_turn({case: run}, repeats=repeats, device=device)[case].median
    if seconds is None:
        raise UnavailableError(f"too little memory to trace {case.model} at {case.height}x{case.width}")
    with _Traffic() as traffic:
        run()
    times = _profile(run, Path(path), device, traffic.calls)
    spent = [Spent(name, calls, times[name], traffic.bytes[name]) for name, calls in traffic.calls.items()]
    spent.sort(key=lambda each: -each.seconds)
    return Trace(case, seconds, tuple(spent), copy_bandwidth(device))


def _profile(
    run: Callable[[], object], path: Path, device: torch.device, operators: Container[str]
) -> Counter[str]:
    """Seconds of operators, what they call included, by name; no call that is within another's is counted."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as profiler:
        run()
        if on_gpu:
            torch.cuda.synchronize(device)
    profiler.export_chrome_trace(str(path))
    total = "device_time_total" if on_gpu else "cpu_time_total"
    seconds: Counter[str] = Counter()
    waiting = [event for event in profiler.events() if event.cpu_parent is None]
    while waiting:
        event = waiting.pop()
        if event.name in operators:
            seconds[event.name] += getattr(event, total) / 1e6
        else:
            waiting += event.cpu_children
    return seconds


# move nothing, though nothing in their signature says so
FREE = ("aten::empty", "aten::_unsafe_view", "profiler::")


class _Traffic(TorchDispatchMode):
    """Counts calls of every operator that is not a view, and the bytes of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        schema = func._schema
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns)
        if not view and not schema.name.startswith(FREE):
            made = {id(x): x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)}
            self.calls[schema.name] += 1
            self.bytes[schema.name] += sum(x.numel() * x.element_size() for x in made.values())
        return out
