"""What the benchmark measures: a network, image size, type, backend and form, as a call to be timed."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from xyscannet import checkpoint
from xyscannet.analysis import forms
from xyscannet.errors import ConfigError
from xyscannet.inference.precision import arithmetic
from xyscannet.losses import charbonnier
from xyscannet.models import XYScanNet, XYScanNetConfig, peers, zoo
from xyscannet.ops import use_backend

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ALIASES = {"mambair": "mambair-variant", "nafnet": "nafnet-64", "uformer": "uformer-b"}
NO_SCAN = "none"  # in place of a backend's name, for networks without a scan
SEED = 0
SMALL = 32  # pixels; a forward of that size compiles the kernels


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        model: a network's name or file.
        height, width, batch: of the images.
        dtype: "fp32", "tf32" (fp32 whose products a GPU may round), "bf16" or "fp16", the last two by autocast.
        scan: the scan backend, what scans in the forms that bring their own, or `NO_SCAN`.
        form: how it is executed, one of `forms.FORMS`.
        train: a training step instead of a forward.
    """

    model: str
    height: int
    width: int
    dtype: str
    scan: str
    form: str = "fused"
    batch: int = 1
    train: bool = False


def find(name_or_file: str) -> str:
    """What a name or its alias stands for: a network's full name; files stay as they are.

    Raises:
        ConfigError: neither a network's name nor a file (the nearest name is given).
    """
    name = ALIASES.get(name_or_file, name_or_file)
    known, path = [*zoo.names(), *peers.PEERS], Path(name)
    if name in known or path.exists() or path.suffix or len(path.parts) > 1:
        return name
    near = difflib.get_close_matches(name, [*known, *ALIASES], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"{name}: neither a checkpoint file nor a network's name; {hint}Known are {', '.join(known)}"
    )


def load(
    name_or_file: str, device: torch.device | str = "cpu", *, random: bool = False
) -> tuple[nn.Module, str]:
    """The network, and where its weights are from: the file's name, or "random" for a name without weights.

    What is at an address is fetched once a call.

    `random` gives any network of this project random weights, a file's too.
    """
    name = find(name_or_file)
    if name in peers.PEERS:
        with _seeded():
            return peers.build(name).requires_grad_(False).to(device), "random"
    if name in zoo.names() and (random or zoo.info(name).weights is None):
        return untrained(zoo.info(name).config).to(device), "random"
    place = checkpoint.resolve(name)
    with checkpoint.at_hand(place) as file:
        foreign = None if name in zoo.names() else checkpoint.read_foreign(file)
        if foreign is not None:
            return peers.from_state(foreign, name).requires_grad_(False).to(device), place.name
        held = checkpoint.read(file)
    if random:
        return untrained(held.config).to(device), "random"
    return checkpoint.build(held, device=device), place.name


def load_own(
    name_or_file: str, device: torch.device | str = "cpu", *, random: bool = False
) -> tuple[XYScanNet, str]:
    """`load` of one of this project's networks. Raises ConfigError where it is of another."""
    model, weights = load(name_or_file, device, random=random)
    if not isinstance(model, XYScanNet):
        raise ConfigError(
            f"{name_or_file}: is a {model.architecture}, whose parts are others; give one of this project's networks "
            f"({', '.join(zoo.names())})"
        )
    return model, weights


def untrained(config: XYScanNetConfig) -> XYScanNet:
    """A network with random weights from a fixed seed, the last layer's too, which is zero in one that begins training.

    The last layer is scaled so that the residual is as large as blur makes it (RMS 0.05).
    """
    with _seeded(), torch.no_grad():
        model = zoo.build(config).eval().requires_grad_(False)
        nn.init.normal_(model.output.weight)
        model.output.weight *= 0.05 / model.residual(torch.rand(1, 3, 32, 32)).std()
    return model


@contextmanager
def _seeded() -> Iterator[None]:
    """While entered, torch draws from the fixed seed, and goes on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)  # and no GPU's
        yield


def suit(case: Case, model: nn.Module) -> Case:
    """The case with the form and scan that the network runs in: another project's has no scan, and few forms suit it.

    Raises ConfigError where the form is unknown.
    """
    form = forms.find(case.form)
    if isinstance(model, XYScanNet):
        return replace(case, scan=form.scan or case.scan)
    return replace(case, scan=NO_SCAN, form=case.form if form.peers else "unfused")


def call(model: nn.Module, case: Case) -> Callable[[], object]:
    """A forward or a training step of the case, on random images, on the network's device."""
    return _step(model, case) if case.train else _forward(model, case)


def forward(model: nn.Module, case: Case) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network in the case's form, type and backend, as a function of images (B, 3, H, W)."""
    form = forms.find(case.form)
    run, backend = form.make(model), "auto" if form.scan or case.scan == NO_SCAN else case.scan

    def call(image: torch.Tensor) -> torch.Tensor:
        exact = arithmetic(image.device.type, DTYPES[case.dtype], tf32=case.dtype == "tf32")
        with use_backend(backend), exact:
            return run(image)

    return call


def trainable(model: nn.Module) -> nn.Module:
    """A copy of the network as training has it."""
    return copy.deepcopy(model).train().requires_grad_(True)


def prepare(case: Case, device: str) -> Callable[[], object]:
    """For `peak_memory`: the network, kernels compiled on a small image, and the call whose memory is measured.

    Of a training step it is the second one, when Adam has its state; a CUDA graph's memory is that of recording it.
    """
    model = load(case.model, device)[0]
    call(model, case if case.form == "compiled" else replace(case, height=SMALL, width=SMALL, batch=1))()
    if case.form == "graph":
        return lambda: call(model, case)()
    measured = call(model, case)
    return (lambda: (measured(), measured())) if case.train else measured


def _image(model: nn.Module, case: Case) -> torch.Tensor:
    generator = torch.Generator().manual_seed(SEED)
    image = torch.rand(case.batch, 3, case.height, case.width, generator=generator)
    return image.to(next(model.parameters()).device)


def _forward(model: nn.Module, case: Case) -> Callable[[], object]:
    image, run = _image(model, case), forward(model, case)

    def call() -> None:
        with torch.inference_mode():
            run(image)

    return call


def _step(model: nn.Module, case: Case) -> Callable[[], object]:
    """Forward, Charbonnier loss, backward and Adam's step, weights and their state in float32."""
    model = trainable(model)
    blur, run = _image(model, case), forward(model, case)
    sharp = blur.flip(0, 2)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-6, foreach=True)

    def call() -> None:
        optimiser.zero_grad(set_to_none=True)
        charbonnier(run(blur), sharp).backward()
        optimiser.step()

    return call
