"""FID (Heusel et al. 2017) and KID (Bińkowski et al. 2018) between restored and sharp images, by clean-fid.

Both compare two sets of Inception features, of whole images or of patches. FID is the Fréchet distance of two
Gaussians, biased upwards for few images; KID is the unbiased squared MMD under a cubic kernel, averaged over random
subsets.
"""

from __future__ import annotations

import contextlib
import io
import math
import platform
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xyscannet.errors import ConfigError, InputError, UnavailableError
from xyscannet.metrics import weights
from xyscannet.metrics.base import DistributionMetric, MetricInfo
from xyscannet.metrics.loading import loading
from xyscannet.metrics.packages import load, version
from xyscannet.metrics.pixels import rgb8, size
from xyscannet.torchvision_guard import import_torchvision

if TYPE_CHECKING:
    import torch

BATCH = 32


@dataclass(frozen=True)
class DistributionSettings:
    """How FID and KID are taken.

    `patch` is the side of the non-overlapping patches that are compared, in pixels, None for whole images; KID is the
    mean over `subsets` random subsets of `subset_size` images (fewer where a set is smaller), drawn with `seed`.
    """

    patch: int | None = None
    subsets: int = 100
    subset_size: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.patch is not None and self.patch < 1:
            raise ConfigError(f"a patch has at least 1 pixel, not {self.patch}")
        if self.subsets < 1 or self.subset_size < 2 or not 0 <= self.seed < 2**32:
            raise ConfigError("KID needs at least 1 subset, of at least 2 images, and a seed in [0, 2^32)")


class Features:
    """The features of both sets. `network` maps (N, 3, 299, 299) float in [0, 255] to (N, D).

    Metrics that share one object may each be given every image: those of the first caller are taken.
    """

    def __init__(
        self, network: Callable[[torch.Tensor], torch.Tensor], settings: DistributionSettings
    ) -> None:
        import_torchvision()
        self._network = network
        self._resize = load("cleanfid.resize", "clean-fid").build_resizer("clean")
        self.settings = settings
        self.sets: dict[str, list[np.ndarray]] = {"restored": [], "sharp": []}  # (n, D) each
        self._owner: object = None
        self._missing = False  # those of the image that the first caller gave last

    def share(
        self, owner: object, restored: np.ndarray | None, sharp: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """Features (n, D) of an image for one set or both, (H, W, 3) uint8, or what `pixels.rgb8` takes."""
        if restored is None and sharp is None:
            raise ValueError("no image")
        self._owner = self._owner or owner
        if owner is not self._owner:
            if self._missing:
                raise InputError("the features of this image are missing")
            return {}
        self._missing = True
        images = {"restored": restored, "sharp": sharp}
        found = {name: self._features(rgb8(image)) for name, image in images.items() if image is not None}
        self._missing = False
        return found

    def extend(self, owner: object, sets: dict[str, np.ndarray]) -> None:
        """Adds features (n, D) to the sets of these names."""
        self._owner = self._owner or owner
        if owner is self._owner:
            for name, features in sets.items():
                self.sets[name].append(features)

    def of(self, name: str) -> np.ndarray:
        """(N, D) features of a set. Raises InputError for fewer than 2."""
        if self.count(name) < 2:
            raise InputError(
                f"the {name} images are too few to compare: {self.count(name)}, at least 2 are needed"
            )
        return np.concatenate(self.sets[name])

    def count(self, name: str) -> int:
        return sum(len(features) for features in self.sets[name])

    def _features(self, image: np.ndarray) -> np.ndarray:
        import torch

        patches = list(_patches(image, self.settings.patch))
        found = []
        for start in range(0, len(patches), BATCH):
            resized = np.stack([self._resize(patch) for patch in patches[start : start + BATCH]])
            batch = torch.from_numpy(resized).permute(0, 3, 1, 2)  # (N, 3, 299, 299)
            with torch.inference_mode():
                found.append(self._network(batch).float().cpu().numpy())
        features = np.concatenate(found)
        if not np.isfinite(features).all():
            raise InputError("the features of this image are not finite")
        return features


def _patches(image: np.ndarray, side: int | None) -> Iterator[np.ndarray]:
    """The whole image, or its patches from the upper left; what remains at the right and below is left out."""
    if side is None:
        yield image
        return
    height, width = image.shape[:2]
    if min(height, width) < side:
        raise InputError(f"an image of {size(image)} pixels holds no patch of {side}×{side}")
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            yield image[top : top + side, left : left + side]


class _OverFeatures(DistributionMetric):
    def __init__(self, info: MetricInfo, features: Features):
        patch = features.settings.patch
        what = "whole images" if patch is None else f"patches of {patch}×{patch}"
        super().__init__(info, f"clean-fid {version('clean-fid')}, Inception-v3, mode clean, {what}")
        self._features = features

    def share(self, restored: np.ndarray | None, sharp: np.ndarray | None = None) -> dict[str, np.ndarray]:
        return self._features.share(self, restored, sharp)

    def state(self) -> dict[str, np.ndarray]:
        """The features so far, for `resume`."""
        sets = self._features.sets
        return {name: np.concatenate(arrays) for name, arrays in sets.items() if arrays}

    def resume(self, state: dict[str, np.ndarray]) -> None:
        """Replaces the features by those of an earlier `state`."""
        for name in self._features.sets:
            self._features.sets[name] = [state[name]] if name in state else []

    def merge(self, state: dict[str, np.ndarray]) -> None:
        """Adds the features of a `share` or of another one's `state`."""
        self._features.extend(self, state)

    def _finite(self, value: float) -> float:
        if not math.isfinite(value):
            raise InputError(f"{self.name} is not a finite number for these sets")
        return float(value)


class FID(_OverFeatures):
    """Fréchet inception distance; smaller is nearer."""

    @property
    def note(self) -> str:
        counts = [self._features.count(name) for name in ("restored", "sharp")]
        return f"{self.made_by}, {counts[0]} restored and {counts[1]} sharp"

    def compute(self) -> dict[str, float]:
        """{"fid": distance}."""
        sets = [self._features.of(name).astype(np.float64) for name in ("restored", "sharp")]
        moments = [moment for each in sets for moment in (each.mean(axis=0), np.cov(each, rowvar=False))]
        try:
            with _quiet():
                value = load("cleanfid.fid", "clean-fid").frechet_distance(*moments)
        except TypeError as error:  # sqrtm lost an argument
            raise UnavailableError(
                f"clean-fid {version('clean-fid')} does not work with SciPy {version('scipy')} ({error}): "
                "pip install 'scipy<1.18'"
            ) from error
        return {"fid": self._finite(value)}


class KID(_OverFeatures):
    """Kernel inception distance, raw and times 1000; smaller is nearer, and it may fall below zero."""

    @property
    def subset_size(self) -> int:
        counts = [self._features.count(name) for name in ("restored", "sharp")]
        return min(*counts, self._features.settings.subset_size)

    @property
    def note(self) -> str:
        settings = self._features.settings
        return f"{self.made_by}, {settings.subsets} subsets of {self.subset_size}, seed {settings.seed}"

    def compute(self) -> dict[str, float]:
        """{"kid": distance, "kid_x1000": 1000 times it}. The same for the same images in the same order."""
        settings = self._features.settings
        sets = [self._features.of(name).astype(np.float64) for name in ("restored", "sharp")]
        before = np.random.get_state()
        np.random.seed(settings.seed)  # clean-fid draws from NumPy's global generator
        try:
            with _quiet():
                value = load("cleanfid.fid", "clean-fid").kernel_distance(
                    *sets, num_subsets=settings.subsets, max_subset_size=settings.subset_size
                )
        finally:
            np.random.set_state(before)
        value = self._finite(value)
        return {"kid": value, "kid_x1000": 1000 * value}


def inception(name: str, *, device: str, offline: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """clean-fid's Inception-v3, (N, 3, 299, 299) in [0, 255] to (N, 2048) features.

    Raises UnavailableError where its weights are neither in a cache nor to be downloaded: no package carries them, and
    another network would give other numbers.
    """
    with loading(name, offline=offline):
        url = load("cleanfid.downloads_helper", "clean-fid").inception_url
        own = Path("." if platform.system() == "Windows" else "/tmp")  # where clean-fid keeps it
        try:
            path = weights.obtain(url, offline=offline, caches=[own])
        except UnavailableError as error:
            raise UnavailableError(
                f"{name} needs clean-fid's Inception network and no other: {error}"
            ) from error
        package = load("cleanfid.inception_torchscript", "clean-fid")
        network = (
            package.InceptionV3W(str(path.parent), download=False, resize_inside=False).to(device).eval()
        )
    return lambda batch: network(batch.to(device))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
