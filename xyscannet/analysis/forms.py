"""The ways in which a network is executed, from the eager formulation to a CUDA graph: what `bench` compares."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xyscannet.analysis.eager import check_eager, eager_forward
from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.models import XYScanNet
from xyscannet.models.strips import Strips, runs_in_strips
from xyscannet.ops.cuda_graph import CudaGraph

Forward = Callable[[Tensor], Tensor]
RECOMPILES = 256  # of one forward in one process: every size, type and backend is a compilation of its own


@dataclass(frozen=True)
class Form:
    """One way to execute a network.

    Attributes:
        make: the forward of a network, for images of one size and one type.
        scan: what scans, where the scan backends have no say.
        trains: whether its forward has gradients.
        peers: whether networks of other projects can be executed so.
        devices: torch's device types that it runs on.
    """

    name: str
    description: str
    make: Callable[..., Forward]
    scan: str | None = None
    trains: bool = True
    peers: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")


def mamba_scan() -> Callable[..., Tensor]:
    """mamba-ssm's `selective_scan_fn`. Raises UnavailableError with the reason where it cannot be imported."""
    from xyscannet.ops.selective_scan.mamba_ssm import kernel

    return kernel()


def _channels_first(network: XYScanNet) -> XYScanNet:
    """Convolutions take their layout from their weights too."""
    network = network if network.training else copy.deepcopy(network)
    return network.to(memory_format=torch.contiguous_format)


def _eager_loop(network: XYScanNet) -> Forward:
    network = _channels_first(network)
    return lambda image: eager_forward(network, image)


def _eager_cuda(network: XYScanNet) -> Forward:
    network, scan = _channels_first(network), mamba_scan()

    def aligned(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, **options) -> Tensor:
        """Its kernel wants the sequences in one type."""
        delta, B, C = delta.to(u.dtype), B.to(u.dtype), C.to(u.dtype)
        return scan(u, delta, A.float(), B, C, D.float(), **options)

    return lambda image: eager_forward(network, image, aligned)


def _in_strips(network: XYScanNet) -> Forward:
    return Strips(network.fuse())


def _compiled(network: nn.Module) -> Forward:
    import torch._dynamo

    own = isinstance(network, XYScanNet)
    folded = network.fuse() if own and not network.training else network
    forward = torch.compile(folded, fullgraph=own, dynamic=False)

    config = torch._dynamo.config
    kind = "recompile" if hasattr(config, "recompile_limit") else "cache_size"  # torch 2.6
    limits = {f"{kind}_limit": RECOMPILES, f"accumulated_{kind}_limit": 4 * RECOMPILES}

    def call(image: Tensor) -> Tensor:
        with config.patch(limits):
            return forward(image)

    return call


def _graph(network: XYScanNet) -> Forward:
    """The folded network's kernels, recorded at the first call and launched at once by the others."""
    network, held = network.fuse(), []

    def call(image: Tensor) -> Tensor:
        if not held:
            for _ in range(2):
                network(image)
            held.append(CudaGraph(network, image))
        return held[0](image)

    return call


_FORMS = (
    Form("eager-loop", "the authors' layout, operator by operator, the scan a loop", _eager_loop, "loop"),
    Form(
        "eager-cuda",
        "the same with mamba-ssm's CUDA scan",
        _eager_cuda,
        "mamba-ssm",
        devices=("cuda",),
    ),
    Form("unfused", "the network as it is trained", lambda network: network, peers=True),
    Form("fused", "linear pairs folded", lambda network: network.fuse(), trains=False),
    Form("strips", "folded, in strips, as CPUs take larger images", _in_strips, trains=False),
    Form(
        "compiled",
        "folded (not in training), under torch.compile(fullgraph=True); another project's network as it is, in as "
        "many graphs as torch needs",
        _compiled,
        peers=True,
    ),
    Form("graph", "folded, recorded as a CUDA graph", _graph, trains=False, devices=("cuda",)),
)
FORMS = {form.name: form for form in _FORMS}


def find(name: str) -> Form:
    """The form of a name. Raises ConfigError where there is none."""
    if name not in FORMS:
        raise ConfigError(f"--forms: {name!r} is not one of {', '.join(FORMS)}")
    return FORMS[name]


def check(name: str, network: nn.Module, device: torch.device, train: bool) -> None:
    """Raises ConfigError where the form is unknown or does not suit, UnavailableError where it cannot run here."""
    form = find(name)
    if train and not form.trains:
        raise ConfigError(f"--forms: {name} is for inference; a training step has no {name} form")
    if device.type not in form.devices:
        raise UnavailableError(
            f"--forms: {name} runs on {', '.join(form.devices)} only, not on {device.type}"
        )
    if name == "strips" and not runs_in_strips(network.config):
        raise ConfigError("--forms: strips: a scan of the map as one sequence (ss2d) does not run in strips")
    if name.startswith("eager"):
        check_eager(network.config)
    if form.scan == "mamba-ssm":
        mamba_scan()
