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
from xyscannet.models.fusion import AFF, KLFF
from xyscannet.models.layers import LayerNorm2d
from xyscannet.models.scanners import IntraScanner
from xyscannet.models.vssm import VSSM
from xyscannet.models.xyscannet import XYScanNet, block_shares, pad_to_multiple
from xyscannet.ops.kl_gate.reference import kl_divergence, resize_nearest

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

    def crop(self, x: Tensor) -> Tensor:
        """The strip out of what was made of a window."""
        unit = x.shape[self.dim] // (self.high - self.low)
        return x.narrow(self.dim, (self.first - self.low) * unit, (self.last - self.first) * unit)


class Strips(nn.Module):
    """An `XYScanNet`, fused or not, run in strips: input and output as the network's, equal but for rounding.

    For inference only. Images of a batch are taken one after another.

    Args:
        network: in eval mode, with scanners "intra" and "inter".
        elements: channels x pixels of a strip, its halo aside. Memory beside the maps grows with it.
        least: a strip is at least so many times its halo, however wide, which bounds what is computed twice.
        progress: called with the share of a forward that is done.

    Raises:
        ConfigError: the network scans a map as one sequence ("ss2d").
    """

    def __init__(
        self,
        network: XYScanNet,
        elements: int = ELEMENTS,
        least: int = LEAST,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        super().__init__()
        if "ss2d" in network.config.scanners:
            raise ConfigError("a network that scans a map as one sequence (ss2d) does not run in strips")
        self.network, self.elements, self.least, self.progress = network, elements, least, progress
        self._done = self._pass = 0.0

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        self._done, self._shares = 0.0, {block: share / len(x) for block, share in block_shares(self.network)}
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
            self._pass = self._shares[block]
            self.sweep(block, x, out=x, halo=2)
            self._pass = 0.0
        return x

    def decoder(self, level: nn.Sequential, x: Tensor) -> Tensor:
        for block in level:
            self._pass = self._shares[block] / _PASSES
            self.vssm(block.norm1_ssm, block.vssm1, x)
            self.sweep(lambda x, block=block: x + block.ffn1(block.norm1_ffn(x)), x, out=x, halo=1)
            self.vssm(block.norm2_ssm, block.vssm2, x)
            self.sweep(lambda x, block=block: x + block.ffn2(block.norm2_ffn(x)), x, out=x, halo=1)
            self._pass = 0.0
        return x

    def vssm(self, norm: LayerNorm2d, vssm: VSSM, x: Tensor) -> None:
        """`x += vssm(norm(x))`."""
        step = self.intra if isinstance(vssm.scanner, IntraScanner) else self.inter
        step(norm, vssm, x)

    def intra(self, norm: LayerNorm2d, vssm: VSSM, x: Tensor) -> None:
        """The columns first, into a map of their own, then the rows."""
        scanner = vssm.scanner
        columns = self.sweep(lambda x: scanner.columns(vssm.features(norm(x))), x, halo=1, dim=COLUMNS)

        def add(x: Tensor, columns: Tensor) -> Tensor:
            features, gate = vssm.split(norm(x))
            scanned = torch.cat([scanner.rows(features), columns], dim=1)
            return x + vssm.merge(scanner.conv_out(scanned), gate)

        self.sweep(add, x, columns, out=x, halo=1)

    def inter(self, norm: LayerNorm2d, vssm: VSSM, x: Tensor) -> None:
        """The means of rows and columns first."""
        scanner = vssm.scanner
        down, across = [], 0.0
        real = torch.promote_types(x.dtype, torch.float32)
        for strip in self.strips(x, halo=1):
            rows, columns = strip.crop(scanner.conv_in(vssm.features(norm(strip.window(x))))).chunk(2, dim=1)
            down.append(rows.mean(3))  # (1, C/2, h)
            across = across + columns.sum(2, dtype=real)  # (1, C/2, W)
        down = scanner.scan(torch.cat(down, dim=2).transpose(1, 2))  # (1, H, C/2)
        across = scanner.scan((across / x.shape[2]).to(down.dtype).transpose(1, 2))  # (1, W, C/2)

        def add(x: Tensor, down: Tensor) -> Tensor:
            features, gate = vssm.split(norm(x))
            return x + vssm.merge(
                scanner.gated(scanner.conv_in(features), down[..., 0].transpose(1, 2), across), gate
            )

        self.sweep(add, x, down.transpose(1, 2)[..., None], out=x, halo=1)

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
        total = torch.zeros(2, dtype=torch.float64, device=maps[0].device)
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
        unit: int = 1,
        halo: int = 0,
        dim: int = ROWS,
    ) -> Tensor:
        """`step(*maps)` strip by strip, into `out`, which may be one of the maps.

        Args:
            step: what is made of a window of each map is a window of the result.
            unit: rows of the smallest map that strips are a multiple of; the other maps have as many units.
            halo: units around a strip that its result depends on.
        """
        waiting = None
        for strip in self.strips(*maps, unit=unit, halo=halo, dim=dim):
            made = strip.crop(step(*map(strip.window, maps)))
            if out is None:
                shape = list(made.shape)
                shape[dim] = made.shape[dim] // (strip.last - strip.first) * strip.count
                out = made.new_empty([shape[i] for i in (0, 2, 3, 1)]).permute(0, 3, 1, 2)
            if waiting:  # written only now, since the halo of this strip reaches into the one before
                waiting[0].copy_(waiting[1])
            waiting = strip.place(out), made
        waiting[0].copy_(waiting[1])
        return out

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
