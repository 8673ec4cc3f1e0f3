"""Benchmark of networks: time, arithmetic rate, memory and scan rate, with the parity to the definition beside."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from xyscannet.analysis import forms as execution
from xyscannet.analysis.cases import (
    DTYPES,
    NO_SCAN,
    SEED,
    Case,
    call,
    find,
    forward,
    load,
    prepare,
    suit,
    trainable,
)
from xyscannet.analysis.complexity import Complexity, ScanShape, count
from xyscannet.analysis.timing import Once, Timing, peak_memory, time_in_turn
from xyscannet.errors import UnavailableError
from xyscannet.inference.memory import memory_is_out
from xyscannet.models import XYScanNet, zoo
from xyscannet.ops import slice_scan, use_backend

PARITY_SIZE = (64, 96)  # pixels; the definition is slow and in float64
GRADIENT_SIZE = (24, 32)


@dataclass(frozen=True)
class Parity:
    """How far a form of the network is from the definition in float64 with the reference scan.

    Attributes:
        max_error, psnr: of the output for a 64 x 96 image in [0, 1]; None for a training step.
        gradient_error: of a training step, of all parameters' gradients for a 24 x 32 image: the norm of the
            difference over the norm.
    """

    max_error: float | None = None
    psnr: float | None = None
    gradient_error: float | None = None


@dataclass(frozen=True)
class Result:
    """A measured case; figures that were not measured are None.

    Attributes:
        gmacs: multiply-accumulates of convolutions and matrix products of a forward, in 1e9.
        scan_updates: state updates of the scans of a forward.
        seconds: median of `repeats` forwards, or training steps, of `case.batch` images.
        images_per_second, megapixels_per_second, gflops: images, pixels, and twice the multiply-accumulates of the
            network as it is (folding saves one in a hundred; a training step counts three forwards), over that time.
        peak_bytes: growth of memory during it, beside the weights.
        scan_seconds: the scans of one forward, run alone.
        scan_rate: state updates a second in them.
        failure: why there is no time: too little memory.
        time_ratio, memory_ratio: to the case that `with_ratios` names.
    """

    case: Case
    weights: str
    parameters: int
    gmacs: float
    scan_updates: int
    repeats: int
    seconds: float | None
    images_per_second: float | None
    megapixels_per_second: float | None
    gflops: float | None
    peak_bytes: int | None
    scan_seconds: float | None
    scan_rate: float | None
    max_error: float | None
    psnr: float | None
    gradient_error: float | None = None
    failure: str | None = None
    time_ratio: float | None = None
    memory_ratio: float | None = None


def run(
    models: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    dtypes: Sequence[str],
    scans: Sequence[str],
    *,
    forms: Sequence[str] | None = None,
    batch: int = 1,
    passes: Sequence[bool] = (False,),
    device: torch.device | str = "cpu",
    repeats: int = 5,
    memory: bool = True,
    parity: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Result]:
    """Measure every combination; all networks, types, forms and scans of a size take turns. `tell` hears each step.

    `passes` are forwards (False) and training steps (True), all of one before all of the other. The form is by default
    "fused", and "unfused" for training steps. Networks of other projects run in the forms that they have; they have no
    parity, as there is no other definition of them here.

    Raises:
        ConfigError, UnavailableError: a network or form is unknown, does not suit, or cannot run here. Before
            anything is measured.
    """
    device = torch.device(device)
    networks = {name: load(name, device) for name in map(find, models)}
    turns: list[list[Case]] = []
    for train, (height, width) in itertools.product(passes, sizes):
        used = forms or ["unfused" if train else "fused"]
        asked = [
            Case(name, height, width, dtype, scan, form, batch, train)
            for name, dtype, form, scan in itertools.product(networks, dtypes, used, scans)
        ]
        turns.append(list(dict.fromkeys(suit(case, networks[case.model][0]) for case in asked)))
    for case in itertools.chain(*turns):
        execution.check(case.form, networks[case.model][0], device, case.train)
    parities: dict[Case, Parity] = {}
    for cases in turns:
        height, width, train = cases[0].height, cases[0].width, cases[0].train
        complexities = {name: count(model, height, width, batch) for name, (model, _) in networks.items()}
        for case in cases:
            where = _anywhere(case)
            if parity and where not in parities and case.scan != NO_SCAN:
                tell(f"{case.model}, {case.dtype}, {case.form}, {case.scan}: parity")
                parities[where] = compare(networks[case.model][0], case)
        tell(f"{height}x{width}: time, {len(cases)} in turn")
        calls = {case: Once(partial(call, networks[case.model][0], case)) for case in cases}
        timings = time_in_turn(calls, repeats=repeats, device=device)
        calls.clear()
        scanning: dict[Case, float | None] = {}
        for case in cases:
            weights, complexity = networks[case.model][1], complexities[case.model]
            tell(f"{case.model}, {height}x{width}, {case.dtype}, {case.form}, {case.scan}: scan and memory")
            alone = replace(case, form="fused")
            if alone not in scanning and case.scan in scans and complexity.scans and not train:
                scanning[alone] = scan_seconds(complexity, case, device, repeats)
            timing = timings[case]
            peak = peak_of(case, device, tell) if memory and timing.seconds else None
            yield _result(
                case,
                weights,
                complexity,
                timing,
                scanning.get(alone),
                peak,
                parities.get(_anywhere(case), Parity()),
            )


def with_ratios(results: Sequence[Result]) -> list[Result]:
    """The results with `time_ratio` and `memory_ratio`, each to the first of its size, type and pass (forward or step).

    Where a size was measured with one network, form and backend only, the ratios are to its first type.
    """

    def first(case: Case) -> Result:
        place = (case.height, case.width, case.train)
        same_size = [r for r in results if (r.case.height, r.case.width, r.case.train) == place]
        same_type = [r for r in same_size if r.case.dtype == case.dtype]
        return (same_type if len(same_type) > 1 else same_size)[0]

    def ratio(mine: float | None, other: float | None) -> float | None:
        return mine / other if mine and other else None

    bases = [first(result.case) for result in results]
    return [
        replace(
            result,
            time_ratio=ratio(result.seconds, base.seconds),
            memory_ratio=ratio(result.peak_bytes, base.peak_bytes),
        )
        for result, base in zip(results, bases, strict=True)
    ]


def compare(model: XYScanNet, case: Case) -> Parity:
    """The error of the case's form, type and backend, on random images of fixed size."""
    device = next(model.parameters()).device
    double = zoo.build(model.config).to(device, torch.float64).eval()
    double.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(SEED)
    size = GRADIENT_SIZE if case.train else PARITY_SIZE
    image = torch.rand(1, 3, *size, generator=generator, dtype=torch.float64).to(device)
    if case.train:
        mine = trainable(model)
        found = _gradient(mine, forward(mine, case), image.float()).double()
        with use_backend("reference"):
            expected = _gradient(double, double, image)
        return Parity(gradient_error=float((found - expected).norm() / expected.norm()))
    with torch.inference_mode():
        with use_backend("reference"):
            expected = double(image)
        error = forward(model, case)(image.float()).double() - expected
    mse = float(error.square().mean())
    return Parity(float(error.abs().max()), math.inf if mse == 0 else -10 * math.log10(mse))


def _gradient(
    model: XYScanNet, run: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor
) -> torch.Tensor:
    """The gradients of all parameters in one vector."""
    loss = (run(image).to(image.dtype) - image.flip(2)).square().sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def scan_seconds(complexity: Complexity, case: Case, device: torch.device, repeats: int) -> float | None:
    """Seconds of all scans of one forward, each shape run alone on random input and counted as often as it occurs."""
    calls = {shape: Once(partial(_scan, shape, case, device)) for shape in complexity.scans}
    timings = time_in_turn(calls, repeats=repeats, device=device, budget=10)
    if any(timing.median is None for timing in timings.values()):
        return None
    return sum(timings[shape].median * calls for shape, calls in complexity.scans.items())


def _anywhere(case: Case) -> Case:
    """The case without its size, which the parity does not depend on."""
    return replace(case, height=0, width=0)


def peak_of(case: Case, device: torch.device, tell: Callable[[str], None]) -> int | None:
    """Bytes that the case's call adds to the weights at its highest; None, told, where there is too little memory."""
    try:
        return peak_memory(prepare, case, str(device), device=device)
    except Exception as error:
        if not memory_is_out(error) and not isinstance(error, UnavailableError):
            raise
        tell(f"peak memory: {error}")
        return None


def _result(
    case: Case,
    weights: str,
    complexity: Complexity,
    timing: Timing,
    scanning: float | None,
    peak: int | None,
    parity: Parity,
) -> Result:
    seconds, passes = timing.median, 3 if case.train else 1
    return Result(
        case=case,
        weights=weights,
        parameters=complexity.parameters,
        gmacs=complexity.macs / 1e9,
        scan_updates=complexity.scan_updates,
        repeats=len(timing.seconds),
        seconds=seconds,
        images_per_second=case.batch / seconds if seconds else None,
        megapixels_per_second=case.batch * case.height * case.width / seconds / 1e6 if seconds else None,
        gflops=passes * 2 * complexity.executed_macs / seconds / 1e9 if seconds else None,
        peak_bytes=peak,
        scan_seconds=scanning,
        scan_rate=complexity.scan_updates / scanning if scanning else None,
        max_error=parity.max_error,
        psnr=parity.psnr,
        gradient_error=parity.gradient_error,
        failure=None if seconds else "out of memory",
    )


def _scan(shape: ScanShape, case: Case, device: torch.device) -> Callable[[], object]:
    """A call of the scan with the mixer's kind of input: u, delta, gate z, and B and C as slices of one tensor."""
    place = (shape.batch, shape.height, shape.width, len(shape.directions))
    dtype = DTYPES[case.dtype]
    u, delta, z = torch.randn(3, *place, shape.channels, device=device).to(dtype)
    B, C = torch.randn(*place, 2 * shape.states, device=device).to(dtype).chunk(2, dim=-1)
    A = -torch.arange(1.0, shape.states + 1, device=device).repeat(shape.channels, 1)
    D, bias = torch.ones(2, shape.channels, device=device)
    scan = partial(slice_scan, u, delta, A, B, C, D, z, bias - 4, True, shape.directions)

    def call() -> None:
        with torch.inference_mode(), use_backend(case.scan):
            scan()

    return call
