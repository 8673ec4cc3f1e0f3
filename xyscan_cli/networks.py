"""From options to what runs a network: its type, its scan backend, its weights, its tiles."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from xyscan_cli import options
from xyscannet import environment
from xyscannet.errors import ConfigError, UnavailableError

if TYPE_CHECKING:
    import torch

    from xyscannet.inference.cluster import Cluster
    from xyscannet.models import XYScanNet


def tile_size(text: str) -> str | int:
    """The value of `--tile`."""
    if text in ("auto", "none"):
        return text
    if text.isdecimal():
        return int(text)
    raise ConfigError(f"--tile must be auto, none or a number of pixels, not {text!r}")


def number_of_scales(text: str) -> str | int:
    """The value of `--scales`."""
    from xyscannet.inference import checked_scales

    try:
        return checked_scales(int(text) if text.isdecimal() else text)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from None


def arithmetic_type(dtype: options.DType, *devices: torch.device) -> torch.dtype:
    """The value of `--dtype` on these devices: one for all of them."""
    import torch

    from xyscannet.inference import pick_dtype

    if (named := named_type(dtype)) is not None:
        return named
    found = {pick_dtype(device) for device in devices}
    return found.pop() if len(found) == 1 else torch.float32


def named_type(dtype: options.DType) -> torch.dtype | None:
    """The type that `--dtype` names; None for auto."""
    import torch

    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return types.get(dtype.value)


def short_name(dtype: torch.dtype) -> str:
    """What `--dtype` calls it: fp32, bf16 or fp16."""
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[str(dtype).removeprefix("torch.")]


def pick_device(device: str) -> torch.device:
    """The value of `--device`: where a network runs. What a command does from here on is its work."""
    from xyscannet import inference

    environment.collect_as_always()
    return inference.pick_device(device)


def places(device: str, devices: str | None) -> list[torch.device]:
    """The values of `--device` and `--devices`: where networks run."""
    from xyscannet import inference

    if devices is None:
        return [pick_device(device)]
    if device != "auto":
        raise ConfigError("--device and --devices exclude each other")
    environment.collect_as_always()
    return inference.pick_devices(devices)


def refuse_cpus_without(cluster: str | None, cpus: int | None) -> None:
    """Raises ConfigError for `--cpus-per-worker` where there are no workers."""
    if cluster is None and cpus is not None:
        raise ConfigError("--cpus-per-worker is for the workers of --cluster")


@contextlib.contextmanager
def cluster(address: str, device: str, devices: str | None, cpus: int | None) -> Iterator[Cluster]:
    """The workers of `--cluster`, for the length of the block."""
    from xyscannet.inference.cluster import Cluster

    if devices is not None:
        raise ConfigError("--devices are of this machine; a cluster's workers take a GPU each")
    with Cluster(address, device, cpus) as found:
        yield found


@contextlib.contextmanager
def scan_backend(scan: options.Scan, device: torch.device) -> Iterator[None]:
    """While entered, `--scan` holds. Raises UnavailableError where that backend does not run on this device."""
    from xyscannet import ops

    if scan is options.Scan.auto:
        yield
        return
    with ops.use_backend(scan.value):
        if ops.active_backend(device.type) != scan.value:
            raise UnavailableError(f"the scan backend {scan.value} does not run on {device}")
        yield


def default_weights(device_type: str) -> str:
    """The embedded network that this kind of device runs by default."""
    from xyscannet.models import zoo

    large = device_type != "cpu" and zoo.info("xyscannet-b").weights is not None
    return "xyscannet-b" if large else "xyscannet-s"


class Loaded(NamedTuple):
    """A network that is ready to run, what it is in words, and the checksum of its file."""

    model: XYScanNet
    words: str
    sha256: str


def load_network(weights: str | None, device: torch.device, channel_order: str) -> Loaded:
    """The folded network of `--weights`, whose file, or what is at its address, is read once."""
    from xyscannet import checkpoint
    from xyscannet.models import zoo

    weights = weights or default_weights(device.type)
    held = checkpoint.read(checkpoint.resolve(weights), channel_order)
    model = checkpoint.build(held, device=device)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    embedded = " (embedded weights)" if weights in zoo.names() else ""
    words = f"{weights}{embedded}, {parameters:.2f} M parameters, width {model.config.width}"
    return Loaded(model.fuse(), words, held.sha256)


def on_each(model: XYScanNet, devices: Sequence[torch.device]) -> list[XYScanNet]:
    """The network, which is on the first of the devices, and a copy of it on each of the others."""
    return [model, *(copy.deepcopy(model).to(device) for device in devices[1:])]
