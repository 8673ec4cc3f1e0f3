"""What a network adds to a photograph and how its scanners' states move over it (Figure 8, and what it leaves open).

Everything is taken off one ordinary forward by hooks: the residual, what each scanning module adds to its stream, and,
through `Mamba.steps`, delta and the decay exp(delta A) at every pixel. A small delta passes over a step; a large one
writes it into the state and forgets what was there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from xyscannet.analysis.erf import chosen_block, decoder_blocks
from xyscannet.errors import ConfigError
from xyscannet.models import XYScanNet
from xyscannet.models.scanners import InterScanner
from xyscannet.models.ss2d import SS2D
from xyscannet.models.xyscannet import DecoderBlock

FLAT = ("x", "y", "-x", "-y")  # SS2D's four sequences, by the direction of a step


@dataclass(frozen=True, eq=False)
class Scan:
    """One direction of one scanner over an image.

    Maps are (h, w) at the scanner's level for scans of every row ("x", "-x") or column ("y", "-y"); profiles (L,)
    where rows or columns were averaged to steps of one sequence. float32.

    Attributes:
        module: the scanning module's name, e.g. "decoder_level1.0.vssm1"; `kind` is "intra", "inter" or "ss2d".
        direction: "x" left to right, "y" top down, "-x" and "-y" the other way round.
        delta: after bias and softplus, its mean over the channels.
        decay: exp(delta A) of each state, its mean over the channels, (N, h, w) or (N, L).
        output: of the mixer, root mean square over the channels; None for "ss2d", whose scans are only known summed.
        likeness: the cosine between the outputs of this backward scan and of the forward one, None for a forward
            scan. At 1 scanning backwards adds nothing new.
    """

    module: str
    kind: str
    direction: str
    delta: np.ndarray
    decay: np.ndarray
    output: np.ndarray | None = None
    likeness: float | None = None


@dataclass(frozen=True, eq=False)
class Addition:
    """What a scanning module adds to the stream.

    `map` (h, w) is the root mean square over the channels; `share` that of the whole over that of the stream it is
    added to.
    """

    module: str
    kind: str
    map: np.ndarray
    share: float


@dataclass(frozen=True, eq=False)
class Features:
    """A forward of one photograph: `residual` (H, W, 3) is what the network adds to it, in the image's unit."""

    residual: np.ndarray
    additions: list[Addition] = field(default_factory=list)
    scans: list[Scan] = field(default_factory=list)


@torch.no_grad()
def features(model: XYScanNet, image: Tensor, blocks: Sequence[str] | None = None) -> Features:
    """Look into a forward of one image (1, 3, H, W) in [0, 1], on the network's device.

    Args:
        model: not folded (`fuse`), which hides the mixers' outputs.
        blocks: names of decoder blocks; by default the last one of each level. A block's maps cover the image as it is
            padded inside the network, to multiples of 4.

    Raises:
        ConfigError: no block has that name, or the image is not of that shape.
    """
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise ConfigError(f"features are of one image (1, 3, H, W), not {tuple(image.shape)}")
    known = decoder_blocks(model)
    chosen = {chosen_block(model, name): known[name] for name in blocks or last_blocks(known)}
    found = Features(np.empty(0))
    with _watching(chosen, model.config.scanners, found):
        residual = model(image) - image
    return Features(_array(residual[0].permute(1, 2, 0)), found.additions, found.scans)


def last_blocks(blocks: Sequence[str]) -> list[str]:
    """Of names such as `decoder_level2.1` the last of each level."""
    return list({name.rpartition(".")[0]: name for name in blocks}.values())


@contextmanager
def _watching(blocks: dict[str, DecoderBlock], kinds: tuple[str, str], found: Features) -> Iterator[None]:
    """While entered, forwards leave what the blocks' modules do in `found`."""
    handles = []
    for name, block in blocks.items():
        for place, kind in enumerate(kinds, start=1):
            module, norm = getattr(block, f"vssm{place}"), getattr(block, f"norm{place}_ssm")
            watcher = _Watcher(f"{name}.vssm{place}", kind, found)
            handles.append(norm.register_forward_pre_hook(watcher.stream))
            handles.append(module.register_forward_hook(watcher.added))
            if isinstance(module, SS2D):
                handles.append(module.register_forward_pre_hook(watcher.flat))
            else:
                hook = watcher.lines if isinstance(module.scanner, InterScanner) else watcher.maps
                handles.append(module.scanner.mamba.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Watcher:
    """The hooks of one scanning module."""

    def __init__(self, name: str, kind: str, found: Features) -> None:
        self.name, self.kind, self.found = name, kind, found
        self.size, self.sequences = 0.0, 0

    def stream(self, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        self.size, self.sequences = float(_rms(inputs[0])), 0

    def added(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        share = float(_rms(output)) / self.size if self.size else float("nan")
        self.found.additions.append(Addition(self.name, self.kind, _array(_rms(output, 1)[0]), share))

    def maps(self, mixer: nn.Module, inputs: tuple[Tensor, tuple[str, ...]], output: Tensor) -> None:
        """A mixer over every row and column: output (1, h, w, K, D)."""
        self._scans(*mixer.steps(*inputs), inputs[1], output)

    def lines(self, mixer: nn.Module, inputs: tuple[Tensor, tuple[str, ...]], output: Tensor) -> None:
        """A mixer over one sequence, output (1, 1, L, K, D): the first time down the image, the second across it."""
        axis = "yx"[self.sequences]
        self.sequences += 1
        delta, A = mixer.steps(*inputs)
        self._scans(delta[:, 0], A, [way.replace("x", axis) for way in inputs[1]], output[:, 0])

    def flat(self, module: SS2D, inputs: tuple[Tensor]) -> None:
        self._scans(*module.steps(*inputs), FLAT, None)

    def _scans(self, delta: Tensor, A: Tensor, directions: Sequence[str], output: Tensor | None) -> None:
        """delta (1, ..., K, E), A (E, N) or (K, E, N), output (1, ..., K, D)."""
        for k, direction in enumerate(directions):
            step, rates = delta[0, ..., k, :], A[k] if A.ndim == 3 else A  # (..., E), (E, N)
            # state by state: all of them at once would take N times the memory
            decay = torch.stack([torch.exp(step * rate).mean(-1) for rate in rates.unbind(1)])
            size, likeness = None, None
            if output is not None:
                size = _array(_rms(output[0, ..., k, :], -1))
                if direction.startswith("-"):
                    forward = output[0, ..., directions.index(direction[1:]), :]
                    likeness = _cosine(output[0, ..., k, :], forward)
            scan = Scan(self.name, self.kind, direction, _array(step.mean(-1)), _array(decay), size, likeness)
            self.found.scans.append(scan)


def _rms(x: Tensor, *dims: int) -> Tensor:
    return x.float().square().mean(dims or None).sqrt()


def _cosine(x: Tensor, y: Tensor) -> float:
    x, y = x.double(), y.double()
    return float((x * y).sum() / (x.norm() * y.norm()))


def _array(x: Tensor) -> np.ndarray:
    return x.float().cpu().numpy().copy()
