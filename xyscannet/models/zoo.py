"""Named sizes of the network and where their weights come from."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from xyscannet.errors import ConfigError
from xyscannet.models.config import XYScanNetConfig
from xyscannet.models.xyscannet import XYScanNet

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


@dataclass(frozen=True)
class ModelInfo:
    """A named network.

    Attributes:
        weights: the embedded checkpoint, None where the package carries none.
        macs: multiply-accumulates of a forward at 256x256 pixels (`xyscannet.analysis.complexity`); None where the
            network was registered without.
    """

    name: str
    config: XYScanNetConfig
    weights: Path | None
    description: str
    macs: int | None = None

    @property
    def parameters(self) -> int:
        """How many there are: counted when asked for, which takes longer than anything else here."""
        return _parameters(self.config)


@cache
def _parameters(config: XYScanNetConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in XYScanNet(config).parameters())


_REGISTRY: dict[str, tuple[XYScanNetConfig, str, int | None]] = {}


def register(name: str, config: XYScanNetConfig, description: str, macs: int | None = None) -> None:
    """Adds a named network; `macs` as in `ModelInfo`, known so that a list need not count them.

    Raises:
        ConfigError: the name is taken.
    """
    if name in _REGISTRY:
        raise ConfigError(f"the network name {name!r} is taken")
    _REGISTRY[name] = (config, description, macs)


def names() -> list[str]:
    """All names: the sizes of the network, smallest first, then the variants it is compared with."""
    return list(_REGISTRY)


@cache
def info(name: str) -> ModelInfo:
    """What a name stands for.

    Raises:
        ConfigError: the name is unknown (the nearest known one is given).
    """
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_REGISTRY)}"
        raise ConfigError(f"no network is named {name!r}; {hint}")
    config, description, macs = _REGISTRY[name]
    weights = WEIGHTS / f"{name}.safetensors"
    return ModelInfo(name, config, weights if weights.is_file() else None, description, macs)


def build(name_or_config: str | XYScanNetConfig) -> XYScanNet:
    """A network with freshly initialised weights.

    Raises:
        ConfigError: the name is unknown.
    """
    if isinstance(name_or_config, str):
        name_or_config = info(name_or_config).config
    return XYScanNet(name_or_config)


register(
    "xyscannet-s",
    XYScanNetConfig(width=24, encoder_blocks=(1, 2, 6), decoder_blocks=(1, 2, 6)),
    "small and fast: the default on a CPU",
    12_030_910_464,
)
register(
    "xyscannet-b",
    XYScanNetConfig(width=48),
    "the network of the paper's tables: the default on a GPU",
    58_770_800_640,
)
register("xyscannet", XYScanNetConfig(width=72), "the authors' released network", 129_565_163_520)
register("xyscannet-plus", XYScanNetConfig(width=144), "the authors' large network", 507_356_282_880)
register(
    "mambair-variant",
    XYScanNetConfig(width=48, scanners=("ss2d", "ss2d")),
    "the paper's baseline: MambaIR's flatten-and-scan in both places of xyscannet-b",
    59_643_002_880,
)
