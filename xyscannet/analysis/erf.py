"""The effective receptive field (ERF): which inputs the centre of an output depends on, and how strongly (Figure 6).

The definition is that of Luo et al. (2016) and Ding et al. (RepLKNet, 2022): the gradient of the output's centre,
summed over its channels, with respect to the input; its absolute value summed over the input's channels and averaged
over many inputs. Ding et al. clip negative gradients where the absolute value is taken here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from xyscannet.errors import ConfigError, InputError
from xyscannet.models import XYScanNet
from xyscannet.models.xyscannet import DecoderBlock

SHARES = (0.2, 0.3, 0.5, 0.99)
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Area:
    """The smallest square around the centre that holds a `share` of the gradient.

    `side` is in pixels and odd; `ratio` is the square's area within the input over the input's area.
    """

    share: float
    side: int
    ratio: float


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """One ERF.

    Attributes:
        part: what was differentiated.
        map: (H, W) float64, in the output's unit over the input's; the centre is at H // 2, W // 2.
        inputs: how many the map is the mean of.
    """

    part: str
    map: np.ndarray
    inputs: int

    @property
    def reached(self) -> float:
        """The share of pixels whose gradient is not zero."""
        return float(np.count_nonzero(self.map) / self.map.size)

    def areas(self, shares: Sequence[float] = SHARES) -> list[Area]:
        return areas(self.map, shares)


def areas(field: np.ndarray, shares: Sequence[float] = SHARES) -> list[Area]:
    """High-contribution areas of a map (H, W) >= 0 around its centre (H // 2, W // 2).

    For each share the smallest odd side such that the square of it around the centre, cut off at the map's edges, holds
    at least that share of the map's sum: the area ratio of Ding et al. Their script takes it of log10(1 + map), which
    depends on the map's unit, and for values far below 1 is the same.

    Raises:
        InputError: the map is zero everywhere or holds a negative or not finite value.
    """
    total = field.sum()
    if not np.isfinite(total) or (field < 0).any() or total == 0:
        raise InputError("a receptive field must be finite, not negative, and not zero everywhere")
    height, width = field.shape
    y, x = height // 2, width // 2
    across, down = np.abs(np.arange(width) - x), np.abs(np.arange(height) - y)
    ring = np.maximum(down[:, None], across[None, :])  # (H, W): half of the side that reaches the pixel
    held = np.cumsum(np.bincount(ring.ravel(), field.ravel()))
    found = []
    for share in shares:
        # the last sum is the total up to rounding, which must not push a share of 1 over the edge
        half = min(int(np.searchsorted(held, share * held[-1] * (1 - 1e-12))), len(held) - 1)
        inside = int(np.count_nonzero(ring <= half))
        found.append(Area(share, 2 * half + 1, inside / field.size))
    return found


def receptive_field(
    run: Run, inputs: Iterable[Tensor], part: str = "output", progress: Callable[[], None] = lambda: None
) -> ReceptiveField:
    """The ERF of a function, one input at a time.

    Args:
        run: (1, C, H, W) -> (1, C', H', W'), differentiable; the centre of its output is at H' // 2, W' // 2.
        inputs: of one size, on the device of what `run` needs; float32 for results that mean anything.
        part: what it is called.
        progress: called after each input.

    Raises:
        InputError: no input, inputs of several sizes, or a gradient that is not finite.
    """
    mean = _Mean(part)
    for x in inputs:
        mean.add(gradient(run, x))
        progress()
    return mean.field()


class _Mean:
    """The mean of gradients, one at a time."""

    def __init__(self, part: str) -> None:
        self.part, self.count, self.total = part, 0, np.zeros(())

    def add(self, found: np.ndarray) -> None:
        if not np.isfinite(found).all():
            raise InputError(f"{self.part}: the gradient of input {self.count + 1} is not finite")
        if self.count and self.total.shape != found.shape:
            raise InputError(f"{self.part}: inputs of several sizes, {self.total.shape} and {found.shape}")
        self.total, self.count = self.total + found, self.count + 1

    def field(self) -> ReceptiveField:
        if not self.count:
            raise InputError(f"{self.part}: no input to take the gradient of")
        return ReceptiveField(self.part, self.total / self.count, self.count)


def gradient(run: Run, x: Tensor) -> np.ndarray:
    """|d (sum over channels of run(x)'s centre) / d x|, summed over x's channels: (1, C, H, W) -> (H, W) float64."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        out = run(x)
        if out.ndim != 4:
            raise ConfigError(
                f"only an output (B, C, H, W) has a centre, not one of shape {tuple(out.shape)}"
            )
        centre = out[:, :, out.shape[2] // 2, out.shape[3] // 2].sum()
    (grad,) = torch.autograd.grad(centre, x)
    return grad.abs().double().sum((0, 1)).cpu().numpy()


def differentiated(model: nn.Module, at: str) -> Run:
    """What `at` names, as a function of the image.

    "restored" is the network's output; "residual" what it adds to its input, without the skip around the whole network,
    whose gradient is one at the centre and zero elsewhere; any other name is that of a module, whose output it is.

    Raises:
        ConfigError: no module has that name.
    """
    if at == "restored":
        return model
    if at == "residual":
        return lambda x: model(x) - x
    module = named(model, at)

    def run(x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        handle = module.register_forward_hook(lambda m, inputs, output: outputs.append(output))
        try:
            model(x)
        finally:
            handle.remove()
        if not outputs:
            raise ConfigError(f"{at} takes no part in a forward of this network")
        return outputs[-1]

    return run


def named(model: nn.Module, name: str) -> nn.Module:
    """A module by its dotted name. Raises ConfigError with the nearest name where there is none."""
    modules = dict(model.named_modules())
    if not name or name not in modules:
        near = difflib.get_close_matches(name, modules, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"the network has no part named {name!r}{hint}")
    return modules[name]


def decoder_blocks(model: nn.Module) -> dict[str, DecoderBlock]:
    """The blocks that scan, in the order in which they run.

    Raises:
        ConfigError: the network has none.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, DecoderBlock)}
    if not found:
        raise ConfigError("the network has no decoder block, and so no scanner")
    return found


def chosen_block(model: nn.Module, name: str | None = None) -> str:
    """The name of a decoder block, by default of the last that runs. Raises ConfigError where there is none."""
    blocks = decoder_blocks(model)
    if name is not None and name not in blocks:
        raise ConfigError(f"{name!r} is no decoder block; they are {', '.join(blocks)}")
    return name or list(blocks)[-1]


def scanner_fields(
    model: XYScanNet,
    images: Iterable[Tensor],
    block: str | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[ReceptiveField]:
    """The ERFs of a decoder block's scanners, each alone on the feature maps that it meets in the network.

    One field for each of the block's two modules with its normalisation ("intra", "inter" or "ss2d"), without the sum
    around it, and one for all that the block adds to its input ("block"); their `part` begins with the block's name.
    Cells of the maps are pixels of the block's level. One image at a time is in memory.

    Args:
        images: (1, 3, H, W) in [0, 1] of one size, on the network's device.
        block: the block's name; by default the last that runs.
        progress: called after each image.

    Raises:
        ConfigError: no block has that name.
        InputError: see `receptive_field`.
    """
    name = chosen_block(model, block)
    parts = scanner_parts(decoder_blocks(model)[name], model.config.scanners)
    means = [_Mean(f"{name}: {part}") for part in parts]
    for image in images:
        maps = entering(model, [entry for entry, _ in parts.values()], image)
        for mean, (_, run), x in zip(means, parts.values(), maps, strict=True):
            mean.add(gradient(run, x))
        progress()
    return [mean.field() for mean in means]


def scanner_parts(block: DecoderBlock, kinds: tuple[str, str]) -> dict[str, tuple[nn.Module, Run]]:
    """For each part of a block the module that its input enters, and the part as a function of that input."""
    first, second = kinds if kinds[0] != kinds[1] else (f"{kinds[0]} 1", f"{kinds[1]} 2")
    return {
        first: (block.norm1_ssm, lambda x: block.vssm1(block.norm1_ssm(x))),
        second: (block.norm2_ssm, lambda x: block.vssm2(block.norm2_ssm(x))),
        "block": (block, lambda x: block(x) - x),
    }


@torch.no_grad()
def entering(model: nn.Module, modules: Sequence[nn.Module], image: Tensor) -> list[Tensor]:
    """The first inputs of the modules in a forward of the image."""
    found: dict[nn.Module, Tensor] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[module] = inputs[0]

    handles = [module.register_forward_pre_hook(note) for module in modules]
    try:
        model(image)
    finally:
        for handle in handles:
            handle.remove()
    return [found[module] for module in modules]
