"""Where training pairs come from: sharp crops blurred on the fly, pairs on the disk, or a mixture of both.

Crops are numbered: the step times the largest batch of any stage, plus the place in the step's batch. Where one is cut
depends on the seed and its number alone, its blur on the seed, the step, its place and the size of the step's batch.
So a run resumes exactly with nothing but its step, and several processes make, each its own numbers, the very crops
that one process would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from xyscannet.data import datasets
from xyscannet.data.blur import BlurParameters, render, sample_blur
from xyscannet.data.crops import PairedCrops
from xyscannet.data.photos import Crops, SharpPhotos
from xyscannet.data.sets import Dataset
from xyscannet.errors import ConfigError
from xyscannet.training.config import PairsConfig, TrainConfig

_STREAM = 0x317  # of the random numbers that choose between photographs and pairs


@dataclass(frozen=True)
class Batch:
    """Pairs of one step: blur and sharp (B, 3, H, W) float32 in [0, 1] or uint8, and where each was cut.

    Where `blur` is still None, `sharp` has the margin of the blur `parameters`, to be rendered on the training
    device. `others` are further pairs of the same step.
    """

    step: int
    sharp: Tensor
    blur: Tensor | None
    parameters: BlurParameters | None = None
    origin: tuple[str, ...] = ()
    others: tuple[Batch, ...] = ()

    @property
    def is_stored(self) -> bool:
        """Whether the pairs come from the disk."""
        return self.blur is not None and self.blur.dtype == torch.uint8

    @property
    def origins(self) -> list[str]:
        """Where every pair was cut, in the order of `SampleSource.to_device`."""
        return [*self.origin, *(name for other in self.others for name in other.origins)]


class SampleSource(Protocol):
    """Makes the batch of a step; the same step always gives the same batch."""

    def make(self, step: int, patch: int, batch: int, items: Sequence[int]) -> Batch:
        """Those items of a step's batch, numbers below `batch`; called by the background threads."""

    def to_device(self, batches: Sequence[Batch], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """(blur, sharp) of batches of one patch size on the training device; called by the background threads."""

    def manifest(self) -> dict[str, Any]:
        """What the data are, for the run's folder."""


class SynthesisedPairs:
    """Random crops of sharp photographs, blurred by `data.blur`.

    On a CPU the background threads render the blur too; for another device they make the sharp crops and draw the
    blur, which is rendered there.
    """

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._data, self._seed = config.data, config.seed
        self._render_ahead, self._pin = device.type == "cpu", device.type == "cuda"
        self._photos = SharpPhotos(config.data.photos, cache_megapixels=config.data.cache_megapixels)
        self._stride = _stride(config)
        self._crops = {
            patch: Crops(
                self._photos,
                self._stride,
                patch,
                margin=config.data.blur.margin,
                seed=config.seed,
                scale=config.data.scale,
                sharp_share=config.data.sharp_crops,
            )
            for patch in sorted({patch for patch, _ in config.shapes})
        }

    def make(self, step: int, patch: int, batch: int, items: Sequence[int]) -> Batch:
        crops = self._crops[patch]
        generator = torch.Generator().manual_seed(_seed_of(self._seed, step))
        parameters = sample_blur(self._data.blur, batch, patch, patch, generator)
        if len(items) != batch:
            parameters = parameters.select(torch.as_tensor(items))
        origin = tuple(crops.origin(step * self._stride + item) for item in items)
        if not self._render_ahead:
            scene = crops.bytes(step, items)
            return Batch(step, scene.pin_memory() if self._pin else scene, None, parameters, origin)
        blur, sharp = render(crops.batch(step, items), parameters)
        return Batch(step, sharp, blur, parameters, origin)

    def to_device(self, batches: Sequence[Batch], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        if self._render_ahead:
            return [(batch.blur.to(device), batch.sharp.to(device)) for batch in batches]
        # Rendering is hundreds of short operations, whatever the number of images: all batches at once.
        scenes = torch.cat([batch.sharp.to(device, non_blocking=True) for batch in batches]).float().div_(255)
        blur, target = render(scenes, BlurParameters.joined([batch.parameters for batch in batches]))
        sizes = [len(batch.sharp) for batch in batches]
        return list(zip(blur.split(sizes), target.split(sizes)))

    def manifest(self) -> dict[str, Any]:
        return {
            "sources": list(self._data.photos),
            "photos": len(self._photos),
            "megapixels": round(self._photos.megapixels, 3),
            "names_sha256": _digest(self._photos.names),
        }


class StoredPairs:
    """Random crops of the pairs of `data.pairs`."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._pin, self._stride = device.type == "cuda", _stride(config)
        self._crops = PairedCrops(
            [(find_pairs(pairs), pairs.weight) for pairs in config.data.pairs],
            seed=config.seed,
            smallest=max(patch for patch, _ in config.shapes),
            cache_megapixels=config.data.cache_megapixels,
        )

    def make(self, step: int, patch: int, batch: int, items: Sequence[int]) -> Batch:
        made = [self._crops.crop(step * self._stride + item, patch) for item in items]
        blur, sharp = (_stacked([crop[side] for crop in made], self._pin) for side in (0, 1))
        return Batch(step, sharp, blur, origin=tuple(crop[2] for crop in made))

    def to_device(self, batches: Sequence[Batch], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        def moved(image: Tensor) -> Tensor:
            return image.to(device, non_blocking=True).float().div_(255)

        return [(moved(batch.blur), moved(batch.sharp)) for batch in batches]

    def manifest(self) -> dict[str, Any]:
        return {
            "sets": [
                {
                    "set": dataset.title,
                    "split": dataset.split,
                    "layout": dataset.layout,
                    "root": str(dataset.root),
                    "pairs": len(samples),
                    "names_sha256": _digest([sample.name for sample in samples]),
                }
                for dataset, samples in self._crops.sets
            ]
        }


class MixedPairs:
    """Photographs blurred on the fly and pairs on the disk; each crop is of either, as their weights say."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self._synthesised, self._stored = SynthesisedPairs(config, device), StoredPairs(config, device)
        stored = sum(pairs.weight for pairs in config.data.pairs)
        self._share = stored / (stored + config.data.photos_weight)
        self._seed, self._stride = config.seed, _stride(config)

    def make(self, step: int, patch: int, batch: int, items: Sequence[int]) -> Batch:
        numbers = (step * self._stride + item for item in items)
        draws = (np.random.Philox(key=[self._seed ^ _STREAM << 32, number]) for number in numbers)
        stored = [np.random.Generator(draw).random() < self._share for draw in draws]
        parts = []
        for source, wanted in ((self._synthesised, False), (self._stored, True)):
            chosen = [item for item, is_stored in zip(items, stored) if is_stored == wanted]
            if chosen:
                parts.append(source.make(step, patch, batch, chosen))
        first, *others = parts
        return Batch(step, first.sharp, first.blur, first.parameters, first.origin, tuple(others))

    def to_device(self, batches: Sequence[Batch], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        parts = [(number, part) for number, batch in enumerate(batches) for part in (batch, *batch.others)]
        found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in batches]
        for source in (self._synthesised, self._stored):  # the order in which `make` puts them
            its = [each for each in parts if each[1].is_stored == (source is self._stored)]
            if its:
                pairs = source.to_device([part for _, part in its], device)
                for (number, _), pair in zip(its, pairs, strict=True):
                    found[number].append(pair)
        return [(torch.cat(blurs), torch.cat(sharps)) for blurs, sharps in (zip(*pairs) for pairs in found)]

    def manifest(self) -> dict[str, Any]:
        return {**self._synthesised.manifest(), **self._stored.manifest(), "stored_share": self._share}


def source_of(config: TrainConfig, device: torch.device) -> SampleSource:
    """The source that `config.data` describes. Raises ConfigError where it names none, and what the sources raise."""
    if config.data.photos and config.data.pairs:
        return MixedPairs(config, device)
    if config.data.photos:
        return SynthesisedPairs(config, device)
    if config.data.pairs:
        return StoredPairs(config, device)
    raise ConfigError(
        "there is nothing to train on: data.photos names no folder or .tar of sharp photographs and data.pairs no "
        "pairs: --set data.photos=[FOLDER], or --set 'data.pairs=[{dataset: gopro, root: FOLDER}]'"
    )


def find_pairs(config: PairsConfig) -> Dataset:
    """The data set that a section of the configuration means.

    Raises ConfigError where a folder holds several, UnavailableError where there is none.
    """
    if config.blur is not None:
        return datasets.pair_folders(config.blur, config.sharp)
    if config.dataset is not None:
        return datasets.find(config.dataset, config.root, config.split, gamma=config.gamma)
    found = [
        each
        for each in datasets.recognise(config.root, gamma=config.gamma)
        if each.split in (config.split, "") and all(sample.sharp for sample in each.samples)
    ]
    if len(found) != 1:
        told = "; ".join(f"{each.title} {each.split} in {each.root}" for each in found) or "none"
        raise ConfigError(
            f"{config.root} should hold one set of pairs to {config.split} on, and holds {told}; name the folder of "
            "one, or its dataset"
        )
    return found[0]


def _stride(config: TrainConfig) -> int:
    """Numbers of crops between two steps: no stage draws again what an earlier one has drawn."""
    return max(batch for _, batch in config.shapes)


def _stacked(crops: list[np.ndarray], pin: bool) -> Tensor:
    """Crops (H, W, 3) uint8 as one (B, 3, H, W) uint8 tensor."""
    batch = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
    return batch.pin_memory() if pin else batch


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _seed_of(seed: int, step: int) -> int:
    digest = hashlib.sha256(f"{seed} {step}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
