"""The network in strips: the whole image's result in the memory of a few feature maps.

Every step of the network sees a pixel or two around each pixel, or whole rows, or whole columns, or the mean of a map.
So each step is taken strip by strip, of rows or, where it runs down the columns, of columns. A strip is read with the
pixels around it that the step sees (its halo), means are gathered in a pass of their own, and results replace the
map that they come from. What a step makes in between is as large as a strip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xyscannet.errors import ConfigError
from xyscannet.models import steps
from xyscannet.models.config import XYScanNetConfig
from xyscannet.models.fusion import AFF, FUSIONS, KLFF
from xyscannet.models.layers import GDFN, LayerNorm2d
from xyscannet.models.plain import is_as_made, is_plain
from xyscannet.models.scanners import SCANNERS, IntraScanner
from xyscannet.models.vssm import VSSM
from xyscannet.models.xyscannet import (
    DecoderBlock,
    EncoderBlock,
    XYScanNet,
    block_shares,
    pad_to_multiple,
)
from xyscannet.ops.hardware import widest
from xyscannet.ops.keeping import kept
from xyscannet.ops.kl_gate.reference import kl_divergence, resize_nearest
from xyscannet.ops.line_means import line_means

ELEMENTS, FEW_ELEMENTS = 2**22, 2**20  # channels x pixels of a strip: the faster, and where memory is short
LEAST = 16  # times its halo
_PASSES = 6  # over the map in a decoder block
ROWS, COLUMNS = 2, 3  # dimensions of (B, C, H, W) that are cut


@dataclass(frozen=True)
class _Strip:
    """Units first to last of `count` along `dim`, with a halo low to high; a unit is so many pixels of each map."""

    dim: int
    count: int
    low: int
    first: int
    last: int
    high: int

    def window(self, x: Tensor) -> Tensor:
        """The strip with its halo out of a whole map."""
        unit = x.shape[self.dim] // self.count
        return x.narrow(self.dim, self.low * unit, (self.high - self.low) * unit)

    def place(self, x: Tensor) -> Tensor:
        """The strip out of a whole map."""
        unit = x.shape[self.dim] // self.count
        return x.narrow(self.dim, self.first * unit, (self.last - self.first) * unit)

    def all_but(self, units: int, length: int) -> tuple[int, int]:
        """`length` pixels of the strip in two: all of it but its last units, and these."""
        size = length // (self.last - self.first)
        rest = min(units * size, length)
        return length - rest, rest

    def crop(self, x: Tensor) -> Tensor:
        """The strip out of what was made of a window."""
        unit = x.shape[self.dim] // (self.high - self.low)
        return x.narrow(self.dim, (self.first - self.low) * unit, (self.last - self.first) * unit)


def runs_in_strips(config: XYScanNetConfig) -> bool:
    """Whether a network does; one that scans a map as one sequence ("ss2d") does not."""
    return "ss2d" not in config.scanners


def may_be_taken_apart(network: nn.Module) -> bool:
    """Whether what strips go through instead of calling it is as it was made, so that nothing is left out."""
    return is_plain() and all(is_as_made(module, kind) for module, kind in _taken_apart(network))


def _taken_apart(network: nn.Module) -> Iterator[tuple[nn.Module, type[nn.Module]]]:
    """What strips go through, and what it is made as; each is there if those before it are as they were made."""
    yield network, XYScanNet
    for level in (1, 2, 3):
        for side, kind in (("encoder", EncoderBlock), ("decoder", DecoderBlock)):
            blocks = getattr(network, f"{side}_level{level}")
            yield blocks, nn.Sequential
            yield from ((block, kind) for block in blocks)
            for block in blocks if kind is DecoderBlock else ():
                for vssm, scanner in zip((block.vssm1, block.vssm2), network.config.scanners):
                    yield vssm, VSSM
                    yield vssm.scanner, SCANNERS[scanner]
    for fusion in (network.fusion_level1, network.fusion_level2):
        yield fusion, FUSIONS[network.config.fusion]


class Strips(nn.Module):
    """An `XYScanNet`, fused or not, run in strips: input and output as the network's, equal but for rounding.

    For inference only. Images of a batch are taken one after another.

    Args:
        network: in eval mode, with scanners "intra" and "inter".
        elements: channels x pixels of a strip, its halo aside. Memory beside the maps grows with it.
        least: a strip is at least so many times its halo, however wide, which bounds what is computed twice.
        progress: called with the share of a forward that is done.

    Raises:
        ConfigError: the network scans a map as one sequence ("ss2d"), or `may_be_taken_apart` says no.
    """

    def __init__(
        self,
        network: XYScanNet,
        elements: int = ELEMENTS,
        least: int = LEAST,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        super().__init__()
        if not runs_in_strips(network.config):
            raise ConfigError("a network that scans a map as one sequence (ss2d) does not run in strips")
        if not may_be_taken_apart(network):
            raise ConfigError(
                "a network with hooks on its blocks, or with other blocks, does not run in strips"
            )
        self.network, self.elements, self.least, self.progress = network, elements, least, progress
        self._done = self._pass = 0.0
        self._spare: Tensor | None = None

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        self._done, self._shares = 0.0, {block: share / len(x) for block, share in block_shares(self.network)}
        with kept():
            images = [self._image(image) for image in x.split(1)]
        return torch.cat(images) if len(images) > 1 else images[0]

    def _image(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        network, sweep = self.network, self.sweep
        image = pad_to_multiple(x, network.config.size_multiple)  # (1, 3, H, W)

        x1 = self.encoder(
            network.encoder_level1, sweep(lambda x: network.patch_embed(x - 0.5), image, halo=1)
        )
        x2 = self.encoder(network.encoder_level2, sweep(network.down1_2, x1, unit=2, halo=1))
        x3 = self.encoder(network.encoder_level3, sweep(network.down2_3, x2, unit=2, halo=1))

        seen = resize_nearest(x1, x2)  # what level 2's fusion reads of x1, which skip1 replaces
        skip1 = self.fusion(network.fusion_level1, x1, x2, x3, out=x1)
        skip2 = self.fusion(network.fusion_level2, x2, seen, x3, out=x2)
        del x1, x2, seen

        x = self.decoder(network.decoder_level3, x3)
        del x3
        x = sweep(lambda x, skip: network.reduce_level2(network.up3_2(x), skip), x, skip2, out=skip2, halo=1)
        del skip2
        x = self.decoder(network.decoder_level2, x)
        x = sweep(lambda x, skip: network.reduce_level1(network.up2_1(x), skip), x, skip1, out=skip1, halo=1)
        del skip1
        x = self.decoder(network.decoder_level1, x)
        out = sweep(lambda x, image: image + network.output(x), x, image, halo=1)
        return out[:, :, :height, :width]

    def encoder(self, level: nn.Sequential, x: Tensor) -> Tensor:
        for block in level:
            self._pass = self._shares[block] / 2
            self.feed_forward(block.norm1_ffn, block.ffn1, x)
            self.feed_forward(block.norm2_ffn, block.ffn2, x)
            self._pass = 0.0
        return x

    def decoder(self, level: nn.Sequential, x: Tensor) -> Tensor:
        for block in level:
            self._pass = self._shares[block] / _PASSES
            self.vssm(block.norm1_ssm, block.vssm1, x)
            self.feed_forward(block.norm1_ffn, block.ffn1, x)
            self.vssm(block.norm2_ssm, block.vssm2, x)
            self.feed_forward(block.norm2_ffn, block.ffn2, x)
            self._pass = 0.0
        self._spare = None
        return x

    def feed_forward(self, norm: LayerNorm2d, ffn: GDFN, x: Tensor) -> None:
        """`x += ffn(norm(x))`."""
        self.sweep(lambda x: steps.feed_forward(norm, ffn, x, False), x, to=x, halo=1)

    def vssm(self, norm: LayerNorm2d, vssm: VSSM, x: Tensor) -> None:
        """`x += vssm(norm(x))`."""
        step = self.intra if isinstance(vssm.scanner, IntraScanner) else self.inter
        step(norm, vssm, x)

    def intra(self, norm: LayerNorm2d, vssm: VSSM, x: Tensor) -> None:
        """The columns first, into a map of their own, then the rows."""
        columns = self.sweep(
            lambda x: steps.half(norm, vssm, x, 1, False)[0], x, halo=1, dim=COLUMNS, spare=True
        )

        def scanned(x: Tensor, columns: Tensor) -> Tensor:
            rows, gate = steps.half(norm, vssm, x, 0, True)
            return steps.merge(vssm, gate, rows, columns)

        self.sweep(scanned, x, columns, to=x, halo=1)

    def inter(self, norm: LayerNorm2d, vssm: VSSM, x: Tensor) -> None:
        """What the scanner reads, and its rows' and columns' means, first."""
        scanner = vssm.scanner
        down, across = [], 0.0

        def take_means(strip: Tensor) -> None:
            nonlocal across
            rows, columns = line_means(strip)  # (1, h, C/2), (1, W, C/2)
            down.append(rows)
            across = across + strip.shape[ROWS] * columns.to(real)

        real = torch.promote_types(x.dtype, torch.float32)
        features = self.sweep(lambda x: steps.features(norm, vssm, x), x, halo=1, spare=True, see=take_means)
        across = (across / x.shape[2]).to(down[0].dtype)
        down, across = scanner.scan(torch.cat(down, dim=1)), scanner.scan(across)  # (1, H, C/2), (1, W, C/2)

        def gated(x: Tensor, features: Tensor, down: Tensor) -> Tensor:
            gates = down[..., 0].transpose(1, 2), across
            return steps.merge(vssm, steps.gate(norm, vssm, x), features, gates=gates)

        self.sweep(gated, x, features, down.transpose(1, 2)[..., None], to=x, halo=1)

    def fusion(self, fusion: nn.Module, *maps: Tensor, out: Tensor) -> Tensor:
        if not (isinstance(fusion, KLFF) and fusion.gate == "mean"):
            return self.sweep(fusion, *maps, out=out, halo=int(isinstance(fusion, AFF)))
        first, second = self.mean_gates(fusion, *maps)

        def gated(*maps: Tensor) -> Tensor:
            x, n1, n2 = fusion.project(*maps)
            fused = first * resize_nearest(n1, x) + second * resize_nearest(n2, x)
            return fusion.merge(x, fused.to(x.dtype))

        return self.sweep(gated, *maps, out=out)

    def mean_gates(self, fusion: KLFF, *maps: Tensor) -> Tensor:
        """KLFF's two gates of the whole image, (2,) in float32 (float64 for float64)."""
        total = torch.zeros(2, dtype=widest(maps[0].device), device=maps[0].device)
        real = torch.promote_types(maps[0].dtype, torch.float32)
        for strip in self.strips(*maps):
            x, n1, n2 = fusion.project(*map(strip.window, maps))
            for i, other in enumerate((n1, n2)):
                total[i] += kl_divergence(resize_nearest(other, x).to(real), x.to(real)).sum()
        return torch.sigmoid(total / (fusion.conv.out_channels * maps[0][0, 0].numel())).to(real)

    def sweep(
        self,
        step: Callable[..., Tensor],
        *maps: Tensor,
        out: Tensor | None = None,
        to: Tensor | None = None,
        unit: int = 1,
        halo: int = 0,
        dim: int = ROWS,
        spare: bool = False,
        see: Callable[[Tensor], None] = lambda strip: None,
    ) -> Tensor:
        """`step(*maps)` strip by strip, into `out` or added to `to`, which may be one of the maps.

        Args:
            step: what is made of a window of each map is a window of the result.
            unit: rows of the smallest map that strips are a multiple of; the other maps have as many units.
            halo: units around a strip that its result depends on.
            spare: a new map takes the memory of the one that was made so before, and which is no longer read.
            see: called with each strip of the result.
        """
        write = Tensor.copy_ if to is None else Tensor.add_
        waiting: list[tuple[Tensor, Tensor]] = []
        for strip in self.strips(*maps, unit=unit, halo=halo, dim=dim):
            made = strip.crop(step(*map(strip.window, maps)))
            see(made)
            if out is None and to is None:
                shape = list(made.shape)
                shape[dim] = made.shape[dim] // (strip.last - strip.first) * strip.count
                out = self._new(made, shape, spare)
            for target, rest in waiting:
                write(target, rest)
            # The next strip's halo reaches into this one: its last units are written after that is read.
            sizes = strip.all_but(halo, made.shape[dim])
            target = strip.place(out if to is None else to).split(sizes, dim)
            first, last = made.split(sizes, dim)
            write(target[0], first)
            waiting = [(target[1], last.clone())]
        for target, rest in waiting:
            write(target, rest)
        return out if to is None else to

    def _new(self, like: Tensor, shape: list[int], spare: bool) -> Tensor:
        """A map (B, C, H, W), channels-last."""
        batch, channels, height, width = shape
        size = batch * height * width * channels
        if not spare:
            memory = like.new_empty(size)
        elif self._spare is None or self._spare.numel() < size or self._spare.dtype != like.dtype:
            memory = self._spare = like.new_empty(size)
        else:
            memory = self._spare[:size]
        return memory.view(batch, height, width, channels).permute(0, 3, 1, 2)

    def strips(self, *maps: Tensor, unit: int = 1, halo: int = 0, dim: int = ROWS) -> Iterator[_Strip]:
        """The strips of a sweep, none smaller than its halo but the last."""
        count = min(x.shape[dim] for x in maps) // unit
        size = max(1, self.least * halo, self.elements * count // max(x[0].numel() for x in maps))
        for first in range(0, count, size):
            last = min(first + size, count)
            yield _Strip(dim, count, max(first - halo, 0), first, last, min(last + halo, count))
            if self._pass:
                self._done += self._pass * (last - first) / count
                self.progress(min(self._done, 1.0))
