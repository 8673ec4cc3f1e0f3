"""LPIPS (Zhang et al. 2018), by the package lpips, and ST-LPIPS (Ghildyal and Liu 2022), by stlpips-pytorch."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING

from xyscannet.metrics.base import ImageMetric, MetricInfo
from xyscannet.metrics.loading import loading
from xyscannet.metrics.networks import on_tensors
from xyscannet.metrics.packages import load, version

if TYPE_CHECKING:
    import torch

BACKBONES = {"alex": "AlexNet", "vgg": "VGG-16"}


def lpips(info: MetricInfo, backbone: str, *, device: str, offline: bool) -> ImageMetric:
    """LPIPS v0.1 on the features of `backbone`, "alex" or "vgg"; smaller is nearer."""
    network, sources = lpips_network(backbone, device=device, offline=offline)
    made_by = f"lpips {version('lpips')}, {BACKBONES[backbone]}, v0.1"
    return ImageMetric(info, made_by, on_tensors(info.name, _signed(network), device), sources)


def lpips_network(backbone: str, *, device: str, offline: bool) -> tuple[torch.nn.Module, str]:
    """The network of LPIPS v0.1 and where its weights came from; it takes pairs (B, 3, H, W) in [-1, 1].

    Raises UnavailableError where the package or the backbone's weights are absent.
    """
    with loading(f"lpips-{backbone}", offline=offline) as sources:
        package = load("lpips", "lpips")
        network = package.LPIPS(net=backbone, version="0.1", verbose=False).to(device).eval()
    return network, str(sources)


def st_lpips(info: MetricInfo, backbone: str, *, device: str, offline: bool) -> ImageMetric:
    """Shift-tolerant LPIPS with the package's own weights, for pairs that are misaligned by a few pixels."""
    with loading(info.name, offline=offline):
        with _unused_imports():
            package = load("stlpips_pytorch.stlpips", "stlpips-pytorch")
        network = package.LPIPS(net=backbone, variant="shift_tolerant", verbose=False).to(device).eval()
    made_by = f"stlpips-pytorch {version('stlpips-pytorch')}, {BACKBONES[backbone]}, shift-tolerant"
    return ImageMetric(info, made_by, on_tensors(info.name, _signed(network), device))


def _signed(network: torch.nn.Module) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda restored, sharp: network(2 * sharp - 1, 2 * restored - 1)


@contextlib.contextmanager
def _unused_imports() -> Iterator[None]:
    """Stands in for IPython and torchsummary, which the package imports without using them or asking for them."""
    names = {"IPython": "embed", "torchsummary": "summary"}
    added = [name for name in names if name not in sys.modules and importlib.util.find_spec(name) is None]
    for name in added:
        module = ModuleType(name)
        setattr(module, names[name], None)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
