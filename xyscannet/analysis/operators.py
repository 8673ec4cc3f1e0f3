"""Each operator alone at the shapes of a network's first level: its time, and the memory traffic it cannot avoid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from xyscannet.analysis.cases import DTYPES
from xyscannet.analysis.forms import mamba_scan
from xyscannet.analysis.timing import Once, Timing, copy_bandwidth, time_short
from xyscannet.errors import UnavailableError
from xyscannet.inference.precision import arithmetic
from xyscannet.models import XYScanNetConfig
from xyscannet.ops import slice_conv1d, slice_scan, use_backend
from xyscannet.ops.depthwise import depthwise_conv, depthwise_silu_gate
from xyscannet.ops.gate import silu_mul
from xyscannet.ops.kl_gate import kl_gated_sum
from xyscannet.ops.line_gate import line_gate
from xyscannet.ops.line_means import line_means
from xyscannet.ops.mixer import mamba_mixer
from xyscannet.ops.norm import layer_norm

MAMBA_SSM = (
    "mamba-ssm"  # in place of a backend's name: its CUDA kernel, on input that already lies as it wants
)


@dataclass(frozen=True)
class Place:
    """The maps of a network's first level: batch, height, width, type, device, and the network's configuration."""

    config: XYScanNetConfig
    batch: int
    height: int
    width: int
    dtype: torch.dtype
    device: torch.device

    def image(self, channels: int, shrink: int = 1) -> Tensor:
        """A random channels-last map (B, C, H, W)."""
        size = (self.batch, channels, -(-self.height // shrink), -(-self.width // shrink))
        return self._random(size).contiguous(memory_format=torch.channels_last)

    def slices(self, *channels: int) -> tuple[Tensor, ...]:
        """Parts of one random tensor (B, H, W, K = 2, sum of channels), as the mixer makes them."""
        whole = self._random((self.batch, self.height, self.width, 2, sum(channels)))
        return whole.split(channels, dim=-1)

    def line(self, *channels: int) -> tuple[Tensor, ...]:
        """The same for the Inter-Scanner's sequence down the image, (B, 1, H, 1, sum of channels)."""
        return self._random((self.batch, 1, self.height, 1, sum(channels))).split(channels, dim=-1)

    def weight(self, *shape: int) -> Tensor:
        """Random, in float32; autocast makes of it what the network's weights are in `dtype`."""
        return torch.randn(shape, device=self.device) / math.sqrt(shape[-1])

    @property
    def inner(self) -> int:
        return self.config.expand * self.config.width // 2

    @property
    def rank(self) -> int:
        return math.ceil(self.config.width / 32)

    def _random(self, size: Sequence[int]) -> Tensor:
        return torch.randn(size, device=self.device, dtype=self.dtype)


Call = tuple[Callable[..., Tensor | tuple[Tensor, ...]], tuple[Tensor, ...]]


def _scan(place: Place, parts: Callable[..., tuple[Tensor, ...]], directions: tuple[str, ...]) -> Call:
    channels, states = place.inner, place.config.d_state
    u, delta, z = parts(channels)[0], parts(channels)[0], parts(channels, channels)[1]
    B, C = parts(states, states)
    A, D, bias = (
        -torch.exp(place.weight(channels, states)),
        place.weight(channels),
        place.weight(channels) - 3,
    )

    def call(u, delta, A, B, C, D, z, bias):
        return slice_scan(u, delta, A, B, C, D, z, bias, True, directions)

    return call, (u, delta, A, B, C, D, z, bias)


def _conv1d(place: Place) -> Call:
    x, channels = place.slices(place.inner, place.inner)[0], place.inner
    call = partial(slice_conv1d, activation="silu", directions=("x", "y"))
    return call, (x, place.weight(channels, place.config.d_conv), place.weight(channels))


def _mixer(place: Place) -> Call:
    channels, states, rank = place.inner, place.config.d_state, place.rank
    weights = (
        *(place.weight(channels, place.config.d_conv), place.weight(channels)),
        *(
            place.weight(rank + 2 * states, channels),
            place.weight(channels, rank),
            place.weight(channels) - 3,
        ),
        *(-torch.exp(place.weight(channels, states)), place.weight(channels)),
    )
    return partial(mamba_mixer, directions=("x", "y")), (*place.slices(2 * channels), *weights)


def _fusion(place: Place) -> Call:
    width = place.config.width
    return kl_gated_sum, (place.image(width), place.image(width, 2), place.image(width, 4))


def _norm(place: Place) -> Call:
    width = place.config.width
    return layer_norm, (place.image(width), place.weight(width), place.weight(width))


def _gdfn(place: Place) -> Call:
    channels = 2 * round(place.config.width * place.config.ffn_expansion)
    return depthwise_silu_gate, (place.image(channels), place.weight(channels, 1, 3, 3))


def _depthwise(place: Place) -> Call:
    channels = 2 * place.config.width
    return depthwise_conv, (place.image(channels), place.weight(channels, 1, 3, 3))


def _gate(place: Place) -> Call:
    width = place.config.width
    return silu_mul, (place.image(2 * width).chunk(2, dim=1)[1], place.image(width))


def _lines(place: Place) -> Call:
    width = place.config.width
    down, across = (place.weight(place.batch, length, width // 2) for length in (place.height, place.width))
    return line_gate, (place.image(width), down.to(place.dtype), across.to(place.dtype))


@dataclass(frozen=True)
class Operator:
    """`make(place)` gives the function and its inputs; `made(first input)` counts the numbers of its output."""

    make: Callable[[Place], Call]
    made: Callable[[Tensor], int] = Tensor.numel


def _half(x: Tensor) -> int:
    return x.numel() // 2


def _lines_of(x: Tensor) -> int:
    """A number for each row of half of the channels, and for each column of the others."""
    batch, channels, height, width = x.shape
    return batch * channels // 2 * (height + width)


OPERATORS: dict[str, Operator] = {
    "scan, intra": Operator(lambda place: _scan(place, place.slices, ("x", "y"))),
    "scan, inter": Operator(lambda place: _scan(place, place.line, ("x",))),
    "causal conv1d": Operator(_conv1d),
    "mixer": Operator(_mixer, made=_half),
    "layer norm": Operator(_norm),
    "depth-wise + gate": Operator(_gdfn, made=_half),
    "depth-wise": Operator(_depthwise),
    "silu gate": Operator(_gate),
    "line means": Operator(lambda place: (line_means, (place.image(place.config.width),)), made=_lines_of),
    "line gates": Operator(_lines),
    "KL gates": Operator(_fusion),
}


@dataclass(frozen=True)
class OperatorCase:
    """An operator at the first level of `model` for images of batch x height x width, with or without its backward."""

    operator: str
    model: str
    batch: int
    height: int
    width: int
    dtype: str
    backend: str
    train: bool = False


@dataclass(frozen=True)
class OperatorResult:
    """A measured operator.

    Attributes:
        seconds: median of a call (forward, or forward and backward); None where memory ran out.
        bytes: of its inputs and outputs, each moved once; with the backward also the inputs again, the output's
            gradient, and the inputs' gradients.
        rate, share: bytes a second, and that over what a copy of a large tensor reaches here.
        time_ratio: to the first backend's time.
    """

    case: OperatorCase
    seconds: float | None
    bytes: int
    rate: float | None
    share: float | None
    time_ratio: float | None


def measure(
    model: str,
    config: XYScanNetConfig,
    sizes: Sequence[tuple[int, int]],
    dtypes: Sequence[str],
    backends: Sequence[str],
    *,
    batch: int = 1,
    train: bool = False,
    device: torch.device | str = "cpu",
    repeats: int = 5,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[OperatorResult]:
    """Measure every operator; its backends take turns. `tell` hears each step, and the bandwidth of a copy first.

    The scan across slices also runs as mamba-ssm's kernel where that can be imported, on a GPU.
    """
    device = torch.device(device)
    bandwidth = copy_bandwidth(device)
    tell(f"a copy moves {bandwidth / 1e9:.1f} GB/s")
    for height, width in sizes:
        for dtype in dtypes:
            place = Place(config, batch, height, width, DTYPES[dtype], device)
            for operator in OPERATORS:
                tell(f"{height}x{width}, {dtype}: {operator}")
                cases = [
                    OperatorCase(operator, model, batch, height, width, dtype, backend, train)
                    for backend in [*backends, *_peers(operator, device)]
                ]
                calls = {case: Once(partial(_call, case, place)) for case in cases}
                timings = time_short(calls, repeats=repeats, device=device)
                size = _traffic(OPERATORS[operator], place, train)
                for case in cases:
                    yield _result(case, timings[case], timings[cases[0]], size, bandwidth)


def _peers(operator: str, device: torch.device) -> list[str]:
    if not operator.startswith("scan") or device.type != "cuda":
        return []
    try:
        mamba_scan()
    except UnavailableError:
        return []
    return [MAMBA_SSM]


def _call(case: OperatorCase, place: Place) -> Callable[[], object]:
    function, inputs = OPERATORS[case.operator].make(place)
    if case.backend == MAMBA_SSM:
        function, inputs = _for_mamba_ssm(inputs)
    backend = "auto" if case.backend == MAMBA_SSM else case.backend
    autocast = partial(arithmetic, place.device.type, place.dtype, tf32=case.dtype == "tf32")
    if not case.train:

        def forward() -> None:
            with torch.inference_mode(), use_backend(backend), autocast():
                function(*inputs)

        return forward
    inputs = tuple(x.detach().requires_grad_() for x in inputs)

    def made() -> tuple[Tensor, ...]:
        with use_backend(backend), autocast():
            found = function(*inputs)
        return found if isinstance(found, tuple) else (found,)

    cotangents = [torch.ones_like(x) for x in made()]
    return lambda: torch.autograd.grad(made(), inputs, cotangents)


def _for_mamba_ssm(inputs: tuple[Tensor, ...]) -> Call:
    """The same rows and columns as (rows, E, L) and (rows, N, L), contiguous, one launch for each branch."""
    u, delta, A, B, C, D, z, bias = inputs
    scan = mamba_scan()

    def rows(x: Tensor, branch: int) -> Tensor:
        x = x[:, :, :, branch]  # (B, H, W, E)
        lines = x if branch == 0 else x.transpose(1, 2)
        return lines.flatten(0, 1).transpose(1, 2).contiguous()

    branches = range(u.shape[3])
    lines = tuple(rows(x, branch) for branch in branches for x in (u, delta, B, C, z))

    def call(A: Tensor, D: Tensor, bias: Tensor, *lines: Tensor) -> tuple[Tensor, ...]:
        outs = []
        for branch in branches:
            u, delta, B, C, z = lines[5 * branch : 5 * branch + 5]
            outs.append(scan(u, delta, A, B, C, D, z, bias, True))
        return tuple(outs)

    return call, (A, D, bias, *lines)


def _traffic(operator: Operator, place: Place, train: bool) -> int:
    """Bytes of inputs and outputs; see `OperatorResult.bytes`."""
    _, inputs = operator.make(replace(place, device=torch.device("meta")))
    given, made = sum(map(_bytes, inputs)), operator.made(inputs[0]) * inputs[0].element_size()
    return given + made if not train else 3 * given + 2 * made


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _result(case: OperatorCase, timing: Timing, first: Timing, size: int, bandwidth: float) -> OperatorResult:
    seconds = timing.median
    if not seconds:
        return OperatorResult(case, None, size, None, None, None)
    rate = size / seconds
    ratio = seconds / first.median if first.median else None
    return OperatorResult(case, seconds, size, rate, rate / bandwidth, ratio)
