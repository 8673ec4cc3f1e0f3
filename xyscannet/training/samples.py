"""Where training pairs come from: sharp crops, blurred on the fly."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from xyscannet.data.blur import BlurParameters, render, sample_blur
from xyscannet.data.photos import Crops, SharpPhotos
from xyscannet.errors import ConfigError
from xyscannet.training.config import TrainConfig


@dataclass(frozen=True)
class Batch:
    """The pairs of one step: blur and sharp (B, 3, H, W) float32 in [0, 1], and what they were made of.

    Where `blur` is still None, `sharp` has the margin of the blur `parameters`, to be rendered on the training device.
    """

    step: int
    sharp: torch.Tensor
    blur: torch.Tensor | None
    parameters: BlurParameters | None = None
    origin: tuple[str, ...] = ()


class SampleSource(Protocol):
    """Makes the batch of a step; the same step always gives the same batch."""

    def make(self, step: int, patch: int, batch: int) -> Batch:
        """The batch of a step; called by the background thread."""

    def to_device(self, batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """(blur, sharp) on the training device; called by the training thread."""

    def manifest(self) -> dict[str, Any]:
        """What the data are, for the run's folder."""


class SynthesisedPairs:
    """Random crops of sharp photographs, blurred by `data.blur`; everything follows from the seed and the step.

    On a CPU the background thread renders the blur too; for another device it makes the sharp crops and draws the
    blur, which is rendered there.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._data, self._seed = config.data, config.seed
        self._render_ahead, self._pin = device.type == "cpu", device.type == "cuda"
        if not config.data.photos:
            raise ConfigError(
                "data.photos names no folder or .tar of sharp photographs: --set data.photos=[FOLDER]"
            )
        self._photos = SharpPhotos(config.data.photos, cache_megapixels=config.data.cache_megapixels)
        self._crops: dict[tuple[int, int], Crops] = {}
        shapes = [(stage.patch, stage.batch) for stage in config.stages] or [
            (config.data.patch, config.data.batch)
        ]
        for patch, batch in shapes:
            self._crops[patch, batch] = Crops(
                self._photos,
                batch,
                patch,
                margin=config.data.blur.margin,
                seed=config.seed,
                scale=config.data.scale,
                sharp_share=config.data.sharp_crops,
            )

    def make(self, step: int, patch: int, batch: int) -> Batch:
        crops = self._crops[patch, batch]
        scene = crops.batch(step)
        generator = torch.Generator().manual_seed(_seed_of(self._seed, step))
        parameters = sample_blur(self._data.blur, batch, patch, patch, generator)
        origin = tuple(f"crop {step * batch + item} of seed {self._seed}" for item in range(batch))
        if not self._render_ahead:
            return Batch(step, scene.pin_memory() if self._pin else scene, None, parameters, origin)
        blur, sharp = render(scene, parameters)
        return Batch(step, sharp, blur, parameters, origin)

    def to_device(self, batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        sharp = batch.sharp.to(device, non_blocking=True)
        if batch.blur is not None:
            return batch.blur.to(device, non_blocking=True), sharp
        return render(sharp, batch.parameters)

    def manifest(self) -> dict[str, Any]:
        names = "\n".join(self._photos.names)
        return {
            "sources": list(self._data.photos),
            "photos": len(self._photos),
            "megapixels": round(self._photos.megapixels, 3),
            "names_sha256": hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest(),
        }


def _seed_of(seed: int, step: int) -> int:
    digest = hashlib.sha256(f"{seed} {step}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
