"""Benchmark of networks: time, arithmetic rate, memory and scan rate, with the parity to the definition beside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from xyscannet import checkpoint
from xyscannet.analysis.complexity import Complexity, ScanShape, count
from xyscannet.analysis.timing import Timing, peak_memory, time_in_turn
from xyscannet.models import XYScanNet, zoo
from xyscannet.ops import slice_scan, use_backend

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PARITY_SIZE = (64, 96)  # pixels; the definition is slow and in float64
SEED = 0


@dataclass(frozen=True)
class Case:
    """What is measured: a network's name or file, image height and width, type ("fp32", ...), scan backend."""

    model: str
    height: int
    width: int
    dtype: str
    scan: str


@dataclass(frozen=True)
class Result:
    """A measured case.

    Attributes:
        seconds: median of `repeats` forwards of one image by the fused network.
        megapixels_per_second, gflops: pixels, and twice the multiply-accumulates of the network as it
            is (folding saves one in a hundred), over that time.
        peak_bytes: growth of memory during a forward; None where it was not asked for.
        scan_seconds: the scans of one forward, run alone.
        scan_rate: state updates a second in them.
        max_error, psnr: against the network in float64 with the reference scan, on a 64 x 96 image in [0, 1].
    """

    case: Case
    weights: str
    parameters: int
    gmacs: float
    repeats: int
    seconds: float
    megapixels_per_second: float
    gflops: float
    peak_bytes: int | None
    scan_seconds: float
    scan_rate: float
    max_error: float
    psnr: float


def load(name_or_file: str, device: torch.device | str = "cpu") -> tuple[XYScanNet, str]:
    """The network, and where its weights are from: the file's name, or "random" for a name without weights.

    Random weights come from a fixed seed, the last layer's too, which is zero in a network that begins training;
    it is scaled so that the residual is as large as blur makes it (RMS 0.05).
    """
    if name_or_file in zoo.names() and zoo.info(name_or_file).weights is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            model = zoo.build(name_or_file)
            torch.nn.init.normal_(model.output.weight)
            model.eval().requires_grad_(False)
            model.output.weight *= 0.05 / model.residual(torch.rand(1, 3, 32, 32)).std()
        return model.to(device), "random"
    return checkpoint.load_model(name_or_file, device=device), checkpoint.resolve(name_or_file).name


def run(
    models: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    dtypes: Sequence[str],
    scans: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    repeats: int = 5,
    memory: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Result]:
    """Measure every combination; all types and scans of a network and size take turns. `tell` hears each step."""
    device = torch.device(device)
    for name in models:
        model, weights = load(name, device)
        fused, parity = model.fuse(), {}
        for dtype in dtypes:
            for scan in scans:
                tell(f"{name}, {dtype}, {scan}: parity")
                parity[dtype, scan] = compare(model, dtype, scan)
        for height, width in sizes:
            cases = [Case(name, height, width, dtype, scan) for dtype in dtypes for scan in scans]
            calls = {case: _forward(fused, case) for case in cases}
            tell(f"{name}, {height}x{width}: time, {len(cases)} in turn")
            timings = time_in_turn(calls, repeats=repeats, device=device)
            complexity = count(model.config, height, width)
            for case in cases:
                tell(f"{name}, {height}x{width}, {case.dtype}, {case.scan}: scan and memory")
                scanning = scan_seconds(complexity, case, device, repeats)
                peak = peak_memory(_prepare, case, str(device), device=device) if memory else None
                yield _result(
                    case, weights, complexity, timings[case], scanning, peak, parity[case.dtype, case.scan]
                )


def compare(model: XYScanNet, dtype: str, scan: str) -> tuple[float, float]:
    """Largest error and PSNR (dB, peak 1) of the fused network on a random 64 x 96 image.

    They are taken against the network as it is, in float64 with the reference scan.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(SEED)
    image = torch.rand(1, 3, *PARITY_SIZE, generator=generator, dtype=torch.float64).to(device)
    double = zoo.build(model.config).to(device, torch.float64).eval()
    double.load_state_dict(model.state_dict())
    with torch.inference_mode(), use_backend("reference"):
        expected = double(image)
    with use_backend(scan):
        error = _autocast(model.fuse(), image.float(), dtype).double() - expected
    mse = float(error.square().mean())
    return float(error.abs().max()), math.inf if mse == 0 else -10 * math.log10(mse)


def scan_seconds(complexity: Complexity, case: Case, device: torch.device, repeats: int) -> float:
    """Seconds of all scans of one forward, each shape run alone on random input and counted as often as it occurs."""
    calls = {shape: _scan(shape, case, device) for shape in complexity.scans}
    timings = time_in_turn(calls, repeats=repeats, device=device, budget=10)
    return sum(timings[shape].median * calls for shape, calls in complexity.scans.items())


def _result(
    case: Case,
    weights: str,
    complexity: Complexity,
    timing: Timing,
    scanning: float,
    peak: int | None,
    parity: tuple[float, float],
) -> Result:
    return Result(
        case=case,
        weights=weights,
        parameters=complexity.parameters,
        gmacs=complexity.macs / 1e9,
        repeats=len(timing.seconds),
        seconds=timing.median,
        megapixels_per_second=case.height * case.width / timing.median / 1e6,
        gflops=2 * complexity.executed_macs / timing.median / 1e9,
        peak_bytes=peak,
        scan_seconds=scanning,
        scan_rate=complexity.scan_updates / scanning if scanning else 0.0,
        max_error=parity[0],
        psnr=parity[1],
    )


def _autocast(model: XYScanNet, image: torch.Tensor, dtype: str) -> torch.Tensor:
    device = image.device.type
    with torch.inference_mode(), torch.autocast(device, dtype=DTYPES[dtype], enabled=dtype != "fp32"):
        return model(image)


def _forward(model: XYScanNet, case: Case) -> Callable[[], object]:
    image = torch.rand(1, 3, case.height, case.width).to(next(model.parameters()).device)

    def call() -> None:
        with use_backend(case.scan):
            _autocast(model, image, case.dtype)

    return call


def _scan(shape: ScanShape, case: Case, device: torch.device) -> Callable[[], object]:
    """A call of the scan with the mixer's kind of input: u, delta, gate z, and B and C as slices of one tensor."""
    place = (shape.batch, shape.height, shape.width, len(shape.directions))
    dtype = DTYPES[case.dtype]
    u, delta, z = torch.randn(3, *place, shape.channels).to(device, dtype)
    B, C = torch.randn(*place, 2 * shape.states).to(device, dtype).chunk(2, dim=-1)
    A = -torch.arange(1.0, shape.states + 1, device=device).repeat(shape.channels, 1)
    D, bias = torch.ones(2, shape.channels, device=device)
    scan = partial(slice_scan, u, delta, A, B, C, D, z, bias - 4, True, shape.directions)

    def call() -> None:
        with torch.inference_mode(), use_backend(case.scan):
            scan()

    return call


def _prepare(case: Case, device: str) -> Callable[[], object]:
    """In the process that measures memory: the network, kernels compiled on a small image, and the call to measure."""
    model = load(case.model, device)[0].fuse()
    _forward(model, Case(case.model, 32, 32, case.dtype, case.scan))()
    return _forward(model, case)
