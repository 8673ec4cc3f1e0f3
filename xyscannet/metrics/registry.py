"""Metrics by their protocol's name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from xyscannet.errors import ConfigError
from xyscannet.metrics.base import ImageMetric, Metric, MetricInfo
from xyscannet.metrics.packages import version


@dataclass(frozen=True)
class Setup:
    """Where metrics compute and what they may do. `offline`: never download."""

    device: str = "cpu"
    offline: bool = False


def _psnr(info: MetricInfo, setup: Setup) -> Metric:
    from xyscannet.metrics.distortion import psnr

    return ImageMetric(info, f"scikit-image {version('scikit-image')}, 8-bit RGB, peak 255", psnr)


def _ssim(info: MetricInfo, setup: Setup) -> Metric:
    from xyscannet.metrics.distortion import ssim

    note = f"scikit-image {version('scikit-image')}, 8-bit RGB, Gaussian 11x11, sigma 1.5, K1 0.01, K2 0.03"
    return ImageMetric(info, note, ssim)


_REGISTRY: dict[str, tuple[MetricInfo, Callable[[MetricInfo, Setup], Metric]]] = {}


def _register(info: MetricInfo, make: Callable[[MetricInfo, Setup], Metric]) -> None:
    _REGISTRY[info.name] = (info, make)


_register(MetricInfo("psnr", "PSNR", True, True, unit="dB"), _psnr)
_register(MetricInfo("ssim", "SSIM", True, True), _ssim)


def names() -> list[str]:
    """The names that `build` knows; beside them it takes any `pyiqa:NAME`."""
    return list(_REGISTRY)


def info(name: str) -> MetricInfo:
    """What is known of a metric without building it.

    Raises:
        ConfigError: the name is unknown (the nearest known one is given).
    """
    return _find(name)[0]


def build(name: str, *, device: str = "cpu", offline: bool = False) -> Metric:
    """The metric of a name, with its network and weights loaded.

    Raises:
        ConfigError: the name is unknown (the nearest known one is given).
        UnavailableError: a package or weights that it needs are missing; with `offline` nothing is downloaded.
    """
    known, make = _find(name)
    return make(known, Setup(device, offline))


def build_all(wanted: Iterable[str], *, device: str = "cpu", offline: bool = False) -> list[Metric]:
    """The metrics of several names, which share work that they have in common. Raises as `build`."""
    return [build(name, device=device, offline=offline) for name in dict.fromkeys(wanted)]


def _find(name: str) -> tuple[MetricInfo, Callable[[MetricInfo, Setup], Metric]]:
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_REGISTRY)}, pyiqa:NAME"
        raise ConfigError(f"no metric is named {name!r}; {hint}")
    return _REGISTRY[name]
