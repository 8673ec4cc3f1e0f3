"""Networks of other projects, through spandrel: what a user would pick instead of XYScanNet."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.models.xyscannet import pad_edges
from xyscannet.torchvision_guard import import_torchvision

if TYPE_CHECKING:
    from types import ModuleType

    from spandrel import ArchRegistry, ImageModelDescriptor


@dataclass(frozen=True)
class PeerInfo:
    """A named network of another project, in the configuration that was published for motion deblurring on GoPro.

    Attributes:
        package: which of spandrel's packages has the architecture.
        architecture: its id there, which is also its class's name.
        settings: the class's arguments; what is not given stays as the class has it.
    """

    name: str
    package: str
    architecture: str
    settings: Mapping[str, Any] = field(default_factory=dict)


_NAFNET = {"middle_blk_num": 1, "enc_blk_nums": [1, 1, 1, 28], "dec_blk_nums": [1, 1, 1, 1]}
_PEERS = (
    PeerInfo("nafnet-32", "spandrel", "NAFNet", {"width": 32, **_NAFNET}),
    PeerInfo("nafnet-64", "spandrel", "NAFNet", {"width": 64, **_NAFNET}),
    PeerInfo("fftformer", "spandrel", "FFTformer"),
    PeerInfo("uformer-b", "spandrel", "Uformer", {"depths": [1, 2, 8, 8, 2, 8, 8, 2, 1], "modulator": True}),
    PeerInfo("restormer", "spandrel_extra_arches", "Restormer"),
    PeerInfo(
        "mprnet",
        "spandrel_extra_arches",
        "MPRNet",
        {"n_feat": 96, "scale_unetfeats": 48, "scale_orsnetfeats": 32},
    ),
)
PEERS = {peer.name: peer for peer in _PEERS}


class Peer(nn.Module):
    """A network of another project behind this project's door: (B, 3, H, W), RGB in [0, 1], any H, W >= 1.

    It runs as its authors wrote it. Padding right and below, by reflection, to the sizes it takes, and cropping are
    added; the output is not clamped.

    Args:
        descriptor: what spandrel made of a state dict.
    """

    def __init__(self, descriptor: ImageModelDescriptor) -> None:
        super().__init__()
        self.architecture = str(descriptor.architecture.id)
        self.sizes = descriptor.size_requirements
        self.network = descriptor.model
        self._call = descriptor._call_fn  # its `__call__` clamps and has no gradient

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        right, below = self.sizes.get_padding(width, height)
        return self._call(self.network, pad_edges(x, right, below))[:, :, :height, :width]


def build(name: str) -> Peer:
    """A named peer with freshly initialised weights, in eval mode.

    Raises:
        UnavailableError: the package that has it is not installed.
    """
    peer = PEERS[name]
    package, registry = _package(peer.package, name), _registry(name)
    module = importlib.import_module(f"{package.__name__}.architectures.{peer.architecture}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch will change
        fresh = getattr(module, peer.architecture)(**peer.settings)
        return Peer(registry[peer.architecture].architecture.load(fresh.state_dict())).eval()


def from_state(state: Mapping[str, Tensor], source: str) -> Peer:
    """The network whose architecture and sizes spandrel recognises in a state dict, in eval mode.

    Args:
        source: the file, for messages.

    Raises:
        ConfigError: no known architecture, not these tensors, or not one that restores RGB images.
        UnavailableError: spandrel is not installed.
    """
    registry = _registry(source)
    from spandrel import ImageModelDescriptor, UnsupportedModelError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            descriptor = registry.load(dict(state))
    except UnsupportedModelError:
        known = ", ".join(sorted(str(each.architecture.id) for each in registry))
        raise ConfigError(
            f"{source}: its tensors are of no network that is known: neither XYScanNet nor one of {known}"
        ) from None
    except Exception as error:  # an architecture that is recognised by some names may fail on the others
        raise ConfigError(f"{source}: its network cannot be built: {shorten(str(error), 300)}") from error
    name = str(descriptor.architecture.id)
    if not isinstance(descriptor, ImageModelDescriptor):
        raise ConfigError(f"{source}: {name} takes a mask too; it restores no images by itself")
    channels = (descriptor.input_channels, descriptor.output_channels)
    if descriptor.scale != 1 or channels != (3, 3):
        raise ConfigError(
            f"{source}: this {name} takes {channels[0]} channels to {channels[1]} and enlarges {descriptor.scale} "
            "times; needed is one that takes RGB to RGB in the same size"
        )
    return Peer(descriptor).eval()


def _registry(what: str) -> ArchRegistry:
    """All of spandrel's architectures, those of the package with the restrictive licences where it is installed."""
    registry = _package("spandrel", what).MAIN_REGISTRY.copy()
    try:
        extra = _package("spandrel_extra_arches", what)
    except UnavailableError:
        return registry
    registry.add(*extra.EXTRA_REGISTRY)
    return registry


def _package(name: str, what: str) -> ModuleType:
    if importlib.util.find_spec(name) is None:
        raise UnavailableError(
            f"{what}: a network of another project, which needs the package {name}: pip install 'xyscannet[peers]'"
        )
    import_torchvision()
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError(f"{what}: the package {name} cannot be imported: {error}") from error
