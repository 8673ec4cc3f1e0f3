"""Restore one image: whole, in strips or in blended tiles, optionally averaged over flips and rotations."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from xyscannet.errors import ConfigError, InputError
from xyscannet.inference.graphs import CudaGraphs, without_graphs
from xyscannet.inference.memory import mebibytes, memory_is_out
from xyscannet.inference.plan import OVERLAP, ImagePlan, allowance, plan_for, spans
from xyscannet.inference.precision import arithmetic
from xyscannet.models.strips import Strips, may_be_taken_apart
from xyscannet.models.xyscannet import block_shares
from xyscannet.ops.keeping import kept

logger = logging.getLogger("xyscannet.inference")

ENSEMBLE = 8  # the flips and rotations of a square
SMALLEST_TILE = 2 * OVERLAP  # pixels; the last resort where memory runs out


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def restore(
    model: nn.Module,
    image: Tensor,
    plan: ImagePlan | None = None,
    *,
    tile: str | int = "auto",
    ensemble: bool = False,
    dtype: torch.dtype | None = None,
    tell: Callable[[str], None] = logger.warning,
    progress: Callable[[float], None] | None = None,
) -> Tensor:
    """Deblur an image, or a batch of them, as many at once as memory allows.

    A pass whose output is not finite is computed again in float32. If memory runs out, the image is restored anew
    in half of it, again and again: in strips, in tiles, in smaller tiles; of a batch first one at a time.

    Args:
        model: an `XYScanNet` in eval mode.
        image: (B, 3, H, W), RGB in [0, 1], on any device.
        plan: of each image, whole or in tiles; by default what `plan_for` says.
        tile: as for `plan_image`; with "none" there are no tiles where memory runs out either.
        ensemble: average the results for the eight flips and rotations of the image.
        dtype: float32, or bfloat16 or float16 by autocast; by default the type of the weights.
            Weights in float64 compute in float64.
        tell: called with each thing the user should hear of; by default logged as a warning.
        progress: called with the fraction of the work that is done.

    Returns:
        (B, 3, H, W), float32 in [0, 1], on the image's device.

    Raises:
        InputError: the image holds numbers that are not finite, or so does the result in float32 too, or memory
            runs out in the smallest tiles (or strips) too.
        ConfigError: no 3-channel image, or another dtype.
    """
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise ConfigError(f"an image must be of shape (B, 3, H, W), not {tuple(image.shape)}")
    device = next(model.parameters()).device
    weights = next(model.parameters()).dtype
    dtype = torch.float64 if weights == torch.float64 else dtype or weights
    if dtype not in (*DTYPES, weights):
        raise ConfigError(f"dtype must be one of {', '.join(map(str, DTYPES))}, not {dtype}")
    if plan is None:
        plan = plan_for(model, *image.shape[2:], dtype=dtype, tile=tile)
    with torch.inference_mode():
        image = image.float()
        if not bool(torch.isfinite(image).all()):
            raise InputError("the image holds values that are not finite")
        at_once = len(image)
        if at_once > 1:
            fitting = allowance(image[:, 0].numel(), device) // plan.memory_bytes
            at_once = max(min(at_once, fitting), 1)
        while True:
            run = _Pass(_in_form(model, plan), device, dtype, ensemble, tell)
            try:
                with kept():
                    return _in_parts(run, image, plan, at_once, progress)
            except (RuntimeError, MemoryError) as error:
                if not memory_is_out(error):
                    raise
            if isinstance(model, CudaGraphs):
                model.forget()
            if at_once > 1:
                at_once = 1
                tell("memory ran out: restoring one image at a time")
            else:
                plan = _halved(plan, image, model, dtype, tile)
                tell(f"memory ran out: restoring it in {plan.describe()}")
            if device.type == "cuda":
                torch.cuda.empty_cache()


def _in_form(model: nn.Module, plan: ImagePlan) -> nn.Module:
    """The model as the plan runs it; as it is where strips would leave out what it has become."""
    network = without_graphs(model)
    return Strips(network, plan.strips) if plan.strips and may_be_taken_apart(network) else model


def _halved(
    plan: ImagePlan, image: Tensor, model: nn.Module, dtype: torch.dtype, tile: str | int
) -> ImagePlan:
    """A plan that takes half of the memory of one that took too much, or the smallest. InputError if it was that."""
    anew = partial(plan_for, model, *image.shape[2:], dtype=dtype)
    try:
        smaller = anew(memory=plan.memory_bytes // 2, tile="none" if tile == "none" else "auto")
    except InputError:
        smaller = anew(tile=SMALLEST_TILE)
    if smaller.memory_bytes < plan.memory_bytes:
        return smaller
    last = "tiles are switched off" if tile == "none" else "no smaller tiles are left"
    raise InputError(
        f"memory ran out in {plan.describe()}, estimated at {mebibytes(plan.memory_bytes)}, and {last}: free some "
        "memory or take a smaller network"
    )


class _Pass:
    """One pass over a tile: to the model's device, through the network in `dtype`, checked, back in float32."""

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        ensemble: bool,
        tell: Callable[[str], None],
    ) -> None:
        self.model, self.device, self.dtype, self.tell = model, device, dtype, tell
        self.count = ENSEMBLE if ensemble else 1
        self.told = False

    def __call__(self, tile: Tensor, progress: Callable[[float], None] | None) -> Tensor:
        tile = tile.to(self.device)
        total: Tensor | None = None
        for turn in range(self.count):
            with _watched(self.model, progress, turn, self.count):
                result = turned_back(self._once(turned(tile, turn)), turn)
            total = result if total is None else total.add_(result)
        return total if self.count == 1 else total.div_(self.count)

    def _once(self, tile: Tensor) -> Tensor:
        tile = tile.contiguous(memory_format=torch.channels_last)
        result = self._forward(tile, self.dtype)
        if self.dtype.itemsize < 4 and not bool(torch.isfinite(result).all()):
            if not self.told:
                self.tell(
                    f"not finite in {str(self.dtype).removeprefix('torch.')}: computed again in float32"
                )
                self.told = True
            result = self._forward(tile, torch.float32)
        if not bool(torch.isfinite(result).all()):
            raise InputError("the network's output is not finite: the weights do not suit this image")
        return result

    def _forward(self, tile: Tensor, dtype: torch.dtype) -> Tensor:
        if dtype == torch.float64:  # what the weights are in
            return self.model(tile.double()).float()
        with arithmetic(self.device.type, dtype):
            if dtype != torch.float32 or next(self.model.parameters()).dtype == torch.float32:
                return self.model(tile).float()
            network = without_graphs(self.model)  # graphs would keep the wider weights' addresses
            wide = {name: weight.float() for name, weight in network.named_parameters()}
            return torch.func.functional_call(network, wide, (tile,))


def _in_parts(
    run: _Pass, image: Tensor, plan: ImagePlan, at_once: int, progress: Callable[[float], None] | None
) -> Tensor:
    """A batch, `at_once` of its images at a time."""
    if len(image) == at_once:
        return _in_tiles(run, image, plan, progress)
    parts = image.split(at_once)
    return torch.cat(
        [
            _in_tiles(run, part, plan, progress and partial(_report, progress, i, len(parts)))
            for i, part in enumerate(parts)
        ]
    )


def _in_tiles(run: _Pass, image: Tensor, plan: ImagePlan, progress: Callable[[float], None] | None) -> Tensor:
    if plan.mode != "tiles":
        return run(image, progress).to(image.device).clamp_(0, 1)
    height, width = image.shape[2:]
    tile_height, tops = spans(height, plan.grid[0], plan.overlap)
    tile_width, lefts = spans(width, plan.grid[1], plan.overlap)
    down = blend_weights(height, tile_height, tops).to(image.device)
    across = blend_weights(width, tile_width, lefts).to(image.device)
    out = torch.zeros_like(image)
    count = len(tops) * len(lefts)
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            part = (..., slice(top, top + tile_height), slice(left, left + tile_width))
            done = i * len(lefts) + j
            result = run(image[part], progress and partial(_report, progress, done, count))
            out[part].addcmul_(result.to(image.device), down[i][:, None] * across[j])
    return out.clamp_(0, 1)


def blend_weights(length: int, size: int, starts: list[int]) -> Tensor:
    """Weights (n, size) of n spans of `length` pixels: raised-cosine ramps over what neighbours share; at every
    pixel the weights of the spans that cover it sum to one."""
    weights = torch.ones(len(starts), size, dtype=torch.float64)
    for i in range(len(starts) - 1):
        shared = starts[i] + size - starts[i + 1]
        ramp = torch.sin((torch.arange(shared, dtype=torch.float64) + 0.5) / shared * math.pi / 2) ** 2
        weights[i + 1, :shared] *= ramp
        weights[i, size - shared :] *= ramp.flip(0)
    total = torch.zeros(length, dtype=torch.float64)
    for start, weight in zip(starts, weights):
        total[start : start + size] += weight
    return torch.stack([w / total[s : s + size] for s, w in zip(starts, weights)]).float()


def turned(image: Tensor, turn: int) -> Tensor:
    """The image (B, 3, H, W) under the `turn`-th of the eight flips and rotations; 0 leaves it as it is."""
    image = image.flip(-1) if turn >= 4 else image
    return torch.rot90(image, turn % 4, (-2, -1))


def turned_back(image: Tensor, turn: int) -> Tensor:
    """The inverse of `turned`."""
    image = torch.rot90(image, -(turn % 4), (-2, -1))
    return image.flip(-1) if turn >= 4 else image


@contextlib.contextmanager
def _watched(
    model: nn.Module, progress: Callable[[float], None] | None, turn: int, turns: int
) -> Iterator[None]:
    """Report the share of a pass that is done, after each block of the network."""
    if progress is None:
        yield
        return
    if isinstance(model, Strips):
        model.progress = lambda share: progress((turn + share) / turns)
        yield
        return
    done = 0.0
    hooks = []
    for block, share in block_shares(model):

        def after(*_: object, share: float = share) -> None:
            nonlocal done
            done += share
            progress((turn + min(done, 1.0)) / turns)

        hooks.append(block.register_forward_hook(after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    progress((turn + 1) / turns)


def _report(progress: Callable[[float], None], done: int, count: int, share: float) -> None:
    """A share of the tile (or part) number `done` as a share of all `count`."""
    progress((done + share) / count)
