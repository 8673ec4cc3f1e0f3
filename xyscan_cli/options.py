"""Options that several commands share, spelled once."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from xyscannet.addresses import Address, place_of


class DType(str, Enum):
    """Number formats of the network's arithmetic."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Scan(str, Enum):
    """Scan backends; `auto` takes the fastest that is usable."""

    auto = "auto"
    reference = "reference"
    cpu = "cpu"
    triton = "triton"
    mamba_ssm = "mamba_ssm"


class ChannelOrder(str, Enum):
    """The order of colour channels that a foreign checkpoint was trained with."""

    rgb = "rgb"
    bgr = "bgr"


class Exist(str, Enum):
    """What to do with outputs that exist."""

    error = "error"
    skip = "skip"
    overwrite = "overwrite"


def local(text: str) -> Path:
    """An option's path on this machine. Raises BadParameter, which names the option, for an address."""
    return _path(text, "this must be on this machine")


def local_text(text: str) -> str:
    """`local` as text, for options that take names too."""
    return str(local(text))


def journal(text: str) -> Path:
    """`local` of a folder with a journal."""
    return _path(
        text, "the journal is appended to with every image, which only a file of this machine can be"
    )


def _path(text: str, reason: str) -> Path:
    place = place_of(text)
    if isinstance(place, Address):
        raise typer.BadParameter(f"{text} is an address, and {reason}: give a path")
    return place


WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="NAME|FILE",
        help="A network's name (`xyscan models list`), a .safetensors file, or the authors' .pth file, here or at an "
        "address such as s3://bucket/FILE. Default: xyscannet-s on a CPU, xyscannet-b on a GPU.",
    ),
]
ChannelOrderOption = Annotated[
    ChannelOrder, typer.Option("--channel-order", help="Channel order that a .pth file was trained with.")
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|cuda:N|mps",
        help="Where to compute. mps has no kernels of its own and is untested.",
    ),
]
DevicesOption = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="all|0,1,...",
        help="Several GPUs of this machine: all, or their numbers. Each takes the next image when it is free.",
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="auto|HOST:PORT",
        help="Work on the machines of a Ray cluster; auto: the one that runs here, else one is started.",
    ),
]
CpusOption = Annotated[
    int | None,
    typer.Option(
        "--cpus-per-worker",
        min=1,
        metavar="N",
        help="With --cluster: processors, and threads, of each worker.",
        show_default="up to 4",
    ),
]
DTypeOption = Annotated[
    DType, typer.Option("--dtype", help="auto: bf16 where the hardware is fast at it, else fp32.")
]
ScanOption = Annotated[
    Scan, typer.Option("--scan", help="Scan backend. A backend that is named but not usable is an error.")
]
_JSON = {"metavar": "FILE|-", "help": "Write one JSON record per line to FILE, or to stdout with -."}
JsonOption = Annotated[Path | None, typer.Option("--json", parser=local, **_JSON)]
JsonAnywhereOption = Annotated[str | None, typer.Option("--json", **_JSON)]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")]
PerceptualWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--perceptual-weights",
        metavar="FILE",
        parser=local,
        help="VGG-19's weights for the contrastive loss: loss.perceptual_weights.",
        show_default="torchvision's cache",
    ),
]


def perceptual_weights(path: Path | None) -> list[str]:
    """The override of a training configuration that `--perceptual-weights` stands for."""
    return [] if path is None else [f"loss.perceptual_weights={json.dumps(str(path))}"]
