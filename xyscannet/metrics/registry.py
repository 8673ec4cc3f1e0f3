"""Metrics by their protocol's name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from xyscannet.errors import ConfigError
from xyscannet.metrics.base import ImageMetric, Metric, MetricInfo
from xyscannet.metrics.packages import version

if TYPE_CHECKING:
    from xyscannet.metrics.distribution import DistributionSettings

T = TypeVar("T")
WINDOW = "Gaussian 11x11, sigma 1.5, K1 0.01, K2 0.03"
ALIGNMENT = "over the valid pixels of RealBlur's alignment: intensity scale, ECC homography, 100 iterations"


@dataclass(frozen=True)
class Setup:
    """Where metrics compute, what they may do (`offline`: never download) and the work that they share."""

    device: str = "cpu"
    offline: bool = False
    distribution: DistributionSettings | None = None
    _shared: dict[type, Any] = field(default_factory=dict)

    def share(self, kind: type[T], make: Callable[[], T]) -> T:
        """The one object of a class that the metrics of this setup share, made on first use."""
        if kind not in self._shared:
            self._shared[kind] = make()
        return self._shared[kind]


Maker = Callable[[MetricInfo, Setup], Metric]


def _psnr(info: MetricInfo, setup: Setup) -> Metric:
    from xyscannet.metrics.distortion import psnr

    return ImageMetric(info, f"scikit-image {version('scikit-image')}, 8-bit RGB, peak 255", psnr)


def _ssim(info: MetricInfo, setup: Setup) -> Metric:
    from xyscannet.metrics.distortion import ssim

    return ImageMetric(info, f"scikit-image {version('scikit-image')}, 8-bit RGB, {WINDOW}", ssim)


def _aligned_psnr(info: MetricInfo, setup: Setup) -> Metric:
    from xyscannet.metrics.alignment import Aligner, psnr

    align = setup.share(Aligner, Aligner)
    note = f"scikit-image {version('scikit-image')}, {ALIGNMENT}, OpenCV {_opencv()}"
    return ImageMetric(info, note, lambda restored, sharp: psnr(align(restored, sharp)))


def _aligned_ssim(info: MetricInfo, setup: Setup) -> Metric:
    from xyscannet.metrics.alignment import Aligner, ssim

    align = setup.share(Aligner, Aligner)
    note = f"scikit-image {version('scikit-image')}, {WINDOW}, {ALIGNMENT}"
    return ImageMetric(info, note, lambda restored, sharp: ssim(align(restored, sharp)))


def _lpips(backbone: str) -> Maker:
    def make(info: MetricInfo, setup: Setup) -> Metric:
        from xyscannet.metrics.perceptual import lpips

        return lpips(info, backbone, device=setup.device, offline=setup.offline)

    return make


def _st_lpips(backbone: str) -> Maker:
    def make(info: MetricInfo, setup: Setup) -> Metric:
        from xyscannet.metrics.perceptual import st_lpips

        return st_lpips(info, backbone, device=setup.device, offline=setup.offline)

    return make


def _iqa(function: str) -> Maker:
    def make(info: MetricInfo, setup: Setup) -> Metric:
        from xyscannet.metrics import iqa

        return getattr(iqa, function)(info, device=setup.device, offline=setup.offline)

    return make


def _distribution(kind: str) -> Maker:
    def make(info: MetricInfo, setup: Setup) -> Metric:
        from xyscannet.metrics import distribution

        def features() -> distribution.Features:
            network = distribution.inception(info.name, device=setup.device, offline=setup.offline)
            return distribution.Features(network, setup.distribution or distribution.DistributionSettings())

        return getattr(distribution, kind)(info, setup.share(distribution.Features, features))

    return make


_REGISTRY: dict[str, tuple[MetricInfo, Maker]] = {}


def _register(info: MetricInfo, make: Maker) -> None:
    _REGISTRY[info.name] = (info, make)


_register(MetricInfo("psnr", "PSNR", True, True, unit="dB"), _psnr)
_register(MetricInfo("ssim", "SSIM", True, True), _ssim)
_register(MetricInfo("psnr-realblur", "PSNR (aligned)", True, True, unit="dB"), _aligned_psnr)
_register(MetricInfo("ssim-realblur", "SSIM (aligned)", True, True), _aligned_ssim)
_register(MetricInfo("lpips-alex", "LPIPS (AlexNet)", False, True), _lpips("alex"))
_register(MetricInfo("lpips-vgg", "LPIPS (VGG)", False, True), _lpips("vgg"))
_register(MetricInfo("st-lpips", "ST-LPIPS", False, True), _st_lpips("alex"))
_register(MetricInfo("st-lpips-vgg", "ST-LPIPS (VGG)", False, True), _st_lpips("vgg"))
_register(MetricInfo("niqe", "NIQE", False, False), _iqa("niqe"))
_register(MetricInfo("dists", "DISTS", False, True), _iqa("dists"))
_register(MetricInfo("fid", "FID", False, True, kind="distribution"), _distribution("FID"))
_register(MetricInfo("kid", "KID", False, True, kind="distribution"), _distribution("KID"))
ALIASES = {"lpips": "lpips-alex"}


def names() -> list[str]:
    """The names that `build` knows; beside them it takes any `pyiqa:NAME`."""
    return list(_REGISTRY)


def info(name: str) -> MetricInfo:
    """What is known of a metric without building it.

    Raises:
        ConfigError: the name is unknown (the nearest known one is given).
    """
    return _find(name)[0]


def build(
    name: str,
    *,
    device: str = "cpu",
    offline: bool = False,
    distribution: DistributionSettings | None = None,
) -> Metric:
    """The metric of a name, with its network and weights loaded; `distribution` says how FID and KID are taken.

    Raises:
        ConfigError: the name is unknown (the nearest known one is given).
        UnavailableError: a package or weights that it needs are missing; with `offline` nothing is downloaded.
    """
    return build_all([name], device=device, offline=offline, distribution=distribution)[0]


def build_all(
    wanted: Iterable[str],
    *,
    device: str = "cpu",
    offline: bool = False,
    distribution: DistributionSettings | None = None,
) -> list[Metric]:
    """The metrics of several names, each once, which share work that they have in common. Raises as `build`."""
    setup = Setup(device, offline, distribution)
    found = {known.name: (known, make) for known, make in map(_find, wanted)}
    return [make(known, setup) for known, make in found.values()]


def _find(name: str) -> tuple[MetricInfo, Maker]:
    if name.startswith("pyiqa:"):
        from xyscannet.metrics import iqa

        return iqa.info(name), _iqa("metric")
    name = ALIASES.get(name, name)
    if name not in _REGISTRY:
        near = difflib.get_close_matches(name, _REGISTRY, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_REGISTRY)}, pyiqa:NAME"
        raise ConfigError(f"no metric is named {name!r}; {hint}")
    return _REGISTRY[name]


def _opencv() -> str:
    from xyscannet.opencv import cv2

    return cv2.__version__
