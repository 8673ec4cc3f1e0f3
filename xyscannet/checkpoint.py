"""Checkpoints: safetensors with the configuration in the header, and the authors' ``.pth`` files imported.

A file may be at an address that fsspec knows: it is fetched whenever it is read, and is what the same file here is.

Errors: UnavailableError where a file or a model's weights are not there, ConfigError where a file is there
but is not a checkpoint of this network (damaged, foreign, with code in it, or of other shapes).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import nn

from xyscannet.addresses import Address, fetched, place_of
from xyscannet.authors import State, first, is_authors, read_pth, read_state, size
from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.files import replacing
from xyscannet.models import XYScanNet, XYScanNetConfig, zoo
from xyscannet.models.mamba import SCAN_PARAMETERS

VERSION = 1
RESERVED = ("format", "checkpoint_version", "config")
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
    header = {
        "format": "pt",
        "checkpoint_version": str(VERSION),
        "config": json.dumps(config.to_dict(), sort_keys=True),
    }
    for key, value in (metadata or {}).items():
        if key in RESERVED or not isinstance(value, str):
            raise ConfigError(
                f"checkpoint metadata {key!r}: must be text under a name other than {', '.join(RESERVED)}"
            )
        header[key] = value
    tensors = {name: _stored(name, tensor, dtype) for name, tensor in state.items()}
    blob = memoryview(safetensors.torch.save(tensors, metadata=header))
    return _write(path, _with_sorted_metadata(blob))


def read(place: str | Path | Address, channel_order: str = "rgb") -> Checkpoint:
    """Read a safetensors file of ours or the authors' ``.pth``, told apart by content, here or at an address.

    ``channel_order="bgr"`` is for weights trained on BGR images: the first layer's inputs and the last
    layer's outputs are flipped so that the network takes and gives RGB.
    """
    place = place_of(os.fspath(place))
    if channel_order not in CHANNEL_ORDERS:
        raise ConfigError(f"channel order {channel_order!r}: must be rgb or bgr")
    with at_hand(place) as path:
        changed = True
        while changed:  # by another file in its place, while it was read
            with _opened(path) as (file, start):
                before = _mark(os.fstat(file.fileno()))
                digest = _sha256(start, file)
                if _is_pth(start):
                    (state, config), metadata = read_pth(path), {"imported_from": place.name}
                else:
                    state, config, metadata = _read_safetensors(path)
                changed = _mark(path.stat()) != before
        check(state, config, str(path))
    if channel_order == "bgr":
        state = flip_channels(state)
    return Checkpoint(config, state, metadata, digest, place)


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
    with _opened(path) as (_, start):
        state = read_state(path) if _is_pth(start) else None
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
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if other.config != first.config:
            raise ConfigError(
                f"{first.source} and {other.source} are of different networks; a mean is of one"
            )
    return {
        name: sum(
            share / total * held.state[name].double() for share, held in zip(shares, checkpoints)
        ).float()
        for name in first.state
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


def _with_sorted_metadata(blob: memoryview) -> list[bytes | memoryview]:
    """The same safetensors content with the header's text fields in a fixed order."""
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(bytes(blob[8 : 8 + size]))
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, blob[8 + size :]]


def _write(path: Path, pieces: list[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, bytes]]:
    """A checkpoint as an open file behind its first bytes, and these. Raises as `read` does, while it is open too."""
    if path.exists() and not path.is_file():
        raise ConfigError(
            f"{path}: is {'a folder' if path.is_dir() else 'no regular file'}, not a checkpoint"
        )
    try:
        with path.open("rb") as file:
            start = file.read(16)
            _recognise(path, start)
            yield file, start
    except FileNotFoundError:
        raise UnavailableError(f"{path}: no such checkpoint file") from None
    except OSError as error:
        raise UnavailableError(f"{path}: cannot be read: {error.strerror or error}") from None


def _mark(status: os.stat_result) -> tuple[int, ...]:
    """What a file does not keep where it is written to, or another takes its place."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _sha256(start: bytes, rest) -> str:
    digest = hashlib.sha256(start)
    while block := rest.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _is_pth(start: bytes) -> bool:
    """A safetensors file begins with the length of its header, whose low byte may be a pickle's 0x80."""
    return start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[4:9] != b"\0\0\0\0{")


def _recognise(path: Path, start: bytes) -> None:
    if not start:
        raise ConfigError(f"{path}: is empty (zero bytes); fetch or export the checkpoint again")
    if not _is_pth(start) and start[8:9] != b"{":
        raise ConfigError(f"{path}: is not a checkpoint (neither safetensors nor .pth)")


def _read_safetensors(path: Path) -> tuple[State, XYScanNetConfig, dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            header = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise ConfigError(f"{path}: is damaged or truncated ({error}); fetch or export it again") from None
    if "config" not in header or "checkpoint_version" not in header:
        raise ConfigError(
            f"{path}: is a safetensors file of another program: its header holds no XYScanNet configuration"
        )
    version = header["checkpoint_version"]
    if version not in map(str, range(1, VERSION + 1)):
        raise ConfigError(
            f"{path}: has checkpoint version {version[:9]}, newer than {VERSION}; update xyscannet"
        )
    try:
        config = XYScanNetConfig.from_dict(json.loads(header["config"]))
    except (ConfigError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path}: the configuration in its header is not valid: {error}") from None
    return state, config, {key: value for key, value in header.items() if key not in RESERVED}
