"""Checkpoints: safetensors with the configuration in the header, and the authors' ``.pth`` files imported.

A file may be at an address that fsspec knows: it is fetched whenever it is read, and is what the same file here is.

Errors: UnavailableError where a file or a model's weights are not there, ConfigError where a file is there
but is not a checkpoint of this network (damaged, foreign, with code in it, or of other shapes).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from xyscannet.addresses import Address, fetched, place_of
from xyscannet.authors import State, first, is_authors, read_state, size
from xyscannet.checkpoint_file import RESERVED, is_pth, opened, read_file, write_file
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.models import XYScanNet, XYScanNetConfig, zoo
from xyscannet.models.mamba import SCAN_PARAMETERS

CHANNEL_ORDERS = ("rgb", "bgr")
Network = TypeVar("Network", bound=XYScanNet)

_FIRST, _LAST = "patch_embed.weight", "output.weight"


@dataclass(frozen=True)
class Checkpoint:
    """One file's content: ``state`` as CPU tensors of the stored type, ``metadata`` the free text."""

    config: XYScanNetConfig
    state: State
    metadata: dict[str, str]
    sha256: str
    source: Path | Address


def save(
    path: str | Path,
    model_or_state: nn.Module | Mapping[str, torch.Tensor],
    config: XYScanNetConfig,
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
) -> str:
    """Write a checkpoint atomically and return its sha256. The same content gives the same bytes.

    ``metadata`` holds free text fields (the training card). ``dtype`` casts floating tensors, e.g. to
    float16. Raises ConfigError where the state does not fit the config or overflows ``dtype``, or that is no
    floating type, InputError where the file cannot be written.
    """
    path = Path(path)
    if dtype is not None and not dtype.is_floating_point:
        raise ConfigError(f"cannot save {path}: a checkpoint holds floating numbers, not {dtype}")
    state = model_or_state.state_dict() if isinstance(model_or_state, nn.Module) else model_or_state
    check(state, config, f"cannot save {path}")
    metadata = metadata or {}
    for key, value in metadata.items():
        if key in RESERVED or not isinstance(value, str):
            raise ConfigError(
                f"checkpoint metadata {key!r}: must be text under a name other than {', '.join(RESERVED)}"
            )
    tensors = {name: _stored(name, tensor, dtype) for name, tensor in state.items()}
    return write_file(path, tensors, config, metadata)


def read(place: str | Path | Address, channel_order: str = "rgb") -> Checkpoint:
    """Read a safetensors file of ours or the authors' ``.pth``, told apart by content, here or at an address.

    ``channel_order="bgr"`` is for weights trained on BGR images: the first layer's inputs and the last
    layer's outputs are flipped so that the network takes and gives RGB.
    """
    place = place_of(os.fspath(place))
    if channel_order not in CHANNEL_ORDERS:
        raise ConfigError(f"channel order {channel_order!r}: must be rgb or bgr")
    with at_hand(place) as path:
        content = read_file(path, place.name)
        check(content.state, content.config, str(path))
    if channel_order == "bgr":
        content = content._replace(state=flip_channels(content.state))
    return Checkpoint(*content, place)


@contextmanager
def at_hand(place: Path | Address) -> Iterator[Path]:
    """The file itself, or a copy of what is at the address for the length of the block; errors name the address.

    Raises UnavailableError where the address is not there or cannot be reached.
    """
    try:
        with fetched(place) as path:
            yield path
    except InputError as error:
        raise UnavailableError(str(error)) from error


def read_foreign(path: Path) -> State | None:
    """The state dict of a ``.pth`` file that is of another network; None where it is of this one.

    Raises as `read` does where the file is missing, damaged or holds code.
    """
    with opened(path) as (_, start):
        state = read_state(path) if is_pth(start) else None
    return None if state is None or is_authors(state) else state


def load_model(
    name_or_path: str | Path | Address,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    channel_order: str = "rgb",
    kind: type[Network] = XYScanNet,
) -> Network:
    """`build` of a named model's embedded weights or of a checkpoint file, here or at an address."""
    return build(read(resolve(name_or_path), channel_order), device=device, dtype=dtype, kind=kind)


def build(
    checkpoint: Checkpoint,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    kind: type[Network] = XYScanNet,
) -> Network:
    """The network of a checkpoint, in eval mode; `kind` is its class, XYScanNet or one derived from it."""
    with torch.random.fork_rng(devices=[]):  # initial values, which do not stay
        model = kind(checkpoint.config)
    model.load_state_dict(checkpoint.state, strict=True)
    model.to(device=device, dtype=dtype)
    scan = {"device": device, "dtype": torch.promote_types(dtype, torch.float32), "copy": True}
    for name, parameter in model.named_parameters():
        if name.endswith(SCAN_PARAMETERS):
            parameter.data = checkpoint.state[name].to(**scan)
    return model.eval().requires_grad_(False)


def resolve(name_or_path: str | Path | Address) -> Path | Address:
    """The checkpoint file of a model name (its embedded weights), of a path or of an address."""
    text = str(name_or_path)
    if text in zoo.names():
        weights = zoo.info(text).weights
        if weights is not None:
            return Path(weights)
        held = [name for name in zoo.names() if zoo.info(name).weights is not None]
        raise UnavailableError(
            f"{text}: no weights are embedded for this model; give a checkpoint file"
            + (f", or use {' or '.join(held)}" if held else "")
        )
    place = place_of(text)
    if isinstance(place, Address) or place.exists() or place.suffix or len(place.parts) > 1:
        return place
    raise ConfigError(f"{text}: neither a checkpoint file nor a model name ({', '.join(zoo.names())})")


def check(state: Mapping[str, torch.Tensor], config: XYScanNetConfig, what: str) -> None:
    """Raise ConfigError with the difference unless ``state`` has exactly the config's names and shapes."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in zoo.build(config).state_dict().items()}
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    misshapen = [
        f"{name} {size(state[name].shape)} instead of {size(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    untyped = [
        f"{name} {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in state.items()
        if name in expected and not (tensor.is_floating_point() and tensor.layout == torch.strided)
    ]
    parts = [
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", misshapen),
        ("not plain real numbers", untyped),
    ]
    lines = [f"  {len(names)} {label}: {first(names)}" for label, names in parts if names]
    if lines:
        raise ConfigError(
            "\n".join([f"{what}: the tensors do not fit the network (width {config.width})", *lines])
        )


def mean(checkpoints: Sequence[Checkpoint], shares: Sequence[float] | None = None) -> State:
    """The mean of the weights of one network at several times, in float32 (a model soup, Wortsman et al. 2022).

    With two of them, before and after a last phase of another loss, it lies between (network interpolation, Wang et
    al. 2019). ``shares`` are relative; without them all count alike. Raises ConfigError for fewer than two
    checkpoints, for different networks, and for shares that are no weights of a mean.
    """
    shares = [1.0] * len(checkpoints) if shares is None else list(shares)
    total = math.fsum(shares)
    if len(checkpoints) < 2:
        raise ConfigError("a mean is of two checkpoints or more")
    if len(shares) != len(checkpoints):
        raise ConfigError(f"{len(shares)} shares are given for {len(checkpoints)} checkpoints")
    if not (math.isfinite(total) and total > 0 and min(shares) >= 0):
        raise ConfigError(f"shares must be numbers from 0, not all 0: {', '.join(map(str, shares))}")
    one = checkpoints[0]
    for other in checkpoints[1:]:
        if other.config != one.config:
            raise ConfigError(f"{one.source} and {other.source} are of different networks; a mean is of one")
    return {
        name: sum(
            share / total * held.state[name].double() for share, held in zip(shares, checkpoints)
        ).float()
        for name in one.state
    }


def flip_channels(state: Mapping[str, torch.Tensor]) -> State:
    """Exchange RGB and BGR: the first layer's input and the last layer's output channels. Its own inverse."""
    flipped = dict(state)
    flipped[_FIRST] = state[_FIRST].flip(1).contiguous()
    flipped[_LAST] = state[_LAST].flip(0).contiguous()
    return flipped


def _stored(name: str, tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    stored = tensor.detach().to("cpu")
    if dtype is not None and stored.is_floating_point():
        cast = stored.to(dtype)
        if bool((stored.isfinite() & ~cast.isfinite()).any()):
            raise ConfigError(f"{name}: its values overflow {dtype}; save as float32")
        stored = cast
    return stored.clone(memory_format=torch.contiguous_format)
