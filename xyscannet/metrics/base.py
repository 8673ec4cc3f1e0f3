"""The two kinds of metric that the registry builds: one value per image, or one value per set of images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xyscannet.errors import InputError
from xyscannet.metrics.pixels import rgb8, size


@dataclass(frozen=True)
class MetricInfo:
    """What is known of a metric before it is built.

    `kind` is "image" (a value per image) or "distribution" (a value per set); `title` is the tables' heading, and
    `unit` is "dB" or empty.
    """

    name: str
    title: str
    higher_is_better: bool
    needs_sharp: bool
    kind: str = "image"
    unit: str = ""


class Metric:
    """A metric ready to use.

    `made_by` says what computes it: package and version, backbone, flavour, settings; `note` also where its weights
    are from and what it has seen.
    """

    def __init__(self, info: MetricInfo, made_by: str = "") -> None:
        self.info = info
        self.made_by = made_by

    @property
    def note(self) -> str:
        return self.made_by

    @property
    def name(self) -> str:
        return self.info.name

    @property
    def title(self) -> str:
        return self.info.title

    @property
    def kind(self) -> str:
        return self.info.kind

    @property
    def higher_is_better(self) -> bool:
        return self.info.higher_is_better

    @property
    def needs_sharp(self) -> bool:
        return self.info.needs_sharp


class ImageMetric(Metric):
    """A metric with a value per image, computed by `compute(restored, sharp or None)` on (H, W, 3) uint8."""

    def __init__(
        self,
        info: MetricInfo,
        made_by: str,
        compute: Callable[[np.ndarray, np.ndarray | None], float],
        weights: str = "",
    ) -> None:
        super().__init__(info, made_by)
        self._compute, self._weights = compute, weights

    @property
    def note(self) -> str:
        return self.made_by + self._weights

    def update(self, restored: np.ndarray, sharp: np.ndarray | None = None) -> float:
        """The value of one image. PSNR of equal images is inf.

        Arrays are what `pixels.rgb8` takes. Raises InputError where it refuses, where the two differ in size, where
        the image is too small for the metric, and for a value that is not a number.
        """
        restored = rgb8(restored)
        if not self.needs_sharp:
            sharp = None
        elif sharp is None:
            raise InputError(f"{self.name} needs the sharp image")
        else:
            sharp = rgb8(sharp)
            if restored.shape != sharp.shape:
                raise InputError(
                    f"the restored image has {size(restored)} pixels, the sharp one {size(sharp)}"
                )
        try:
            value = float(self._compute(restored, sharp))
        except ValueError as error:
            raise InputError(f"{self.name}: {error}") from error
        if math.isnan(value):
            raise InputError(f"{self.name} is not a number for this image")
        return value


class DistributionMetric(Metric, ABC):
    """A metric that compares the set of restored images with the set of sharp ones."""

    def update(self, restored: np.ndarray | None, sharp: np.ndarray | None = None) -> None:
        """Adds an image to one set or to both; they need not correspond, nor agree in size."""
        self.merge(self.share(restored, sharp))

    @abstractmethod
    def share(self, restored: np.ndarray | None, sharp: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """What `update` of an image would add, for `merge`; changes nothing."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """What was gathered so far, for `resume` in a later run."""

    @abstractmethod
    def resume(self, state: dict[str, np.ndarray]) -> None:
        """Replaces what was gathered by an earlier `state`; an empty one is that of no image."""

    @abstractmethod
    def merge(self, state: dict[str, np.ndarray]) -> None:
        """Adds a `share`, or what another metric of this kind gathered, by its `state`."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The values of the two sets, by name. Raises InputError for sets too small."""
