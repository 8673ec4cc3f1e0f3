"""Slice and scan (Section 3.2): the Intra-Scanner within slices, the Inter-Scanner across them.

The first half of the channels is scanned horizontally in the Intra-Scanner and vertically in the
Inter-Scanner; the second half the other way. Both halves share one mixer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xyscannet.models.layers import pointwise
from xyscannet.models.mamba import Mamba
from xyscannet.models.plain import is_plain, plain
from xyscannet.ops.convolution import pointwise_conv
from xyscannet.ops.line_gate import line_gate
from xyscannet.ops.line_means import line_means


class Scanner(nn.Module):
    """What both scanners share: 1x1 convolution in, a mixer over two branches, 1x1 convolution out.

    Input and output (B, C, H, W).

    Args:
        channels: C, even; each branch has C/2.
        bidirectional: the sequences are also scanned backwards, with the same weights, and both are added.
        d_state, d_conv, expand: of the mixer.
    """

    def __init__(
        self,
        channels: int,
        *,
        bidirectional: bool = False,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
    ) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.conv_in = pointwise(channels, channels)
        self.mamba = Mamba(channels // 2, d_state, d_conv, expand)
        self.conv_out = pointwise(channels, channels)

    def mix(self, x: Tensor, directions: tuple[str, ...]) -> Tensor:
        """x (B, H, W, K, C/2) through the mixer, forwards and, where asked, backwards too."""
        return self._ways(self.mixer, x, directions)

    def mix_projected(self, xz: Tensor, directions: tuple[str, ...]) -> Tensor:
        """`mix` of what the mixer's in_proj has made of x, (B, H, W, K, 2E)."""
        return self._ways(self.projected_mixer, xz, directions)

    def _ways(self, mixer: Callable[..., Tensor], x: Tensor, directions: tuple[str, ...]) -> Tensor:
        if not self.bidirectional:
            return mixer(x, directions)
        both = mixer(torch.cat([x, x], dim=3), directions + tuple(f"-{d}" for d in directions))
        forwards, backwards = both.chunk(2, dim=3)
        return forwards + backwards

    def mixer(self, x: Tensor, directions: tuple[str, ...]) -> Tensor:
        return self.mamba(x, directions)

    def projected_mixer(self, xz: Tensor, directions: tuple[str, ...]) -> Tensor:
        return self.mamba.project_out(self.mamba.scan(xz, directions))


@plain
class IntraScanner(Scanner):
    """Every row of the first half and every column of the second half is a sequence of pixels (Eq. 3)."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x).permute(0, 2, 3, 1)  # (B, H, W, C)
        branches = x.unflatten(-1, (2, -1))  # (B, H, W, 2, C/2)
        y = self.mix(branches, ("x", "y")).flatten(-2)  # (B, H, W, C)
        return self.conv_out(y.permute(0, 3, 1, 2))

    def rows(self, x: Tensor) -> Tensor:
        """The first branch alone, before conv_out: (B, C, H, W) -> (B, C/2, H, W)."""
        return self._branch(x, 0, "x")

    def columns(self, x: Tensor) -> Tensor:
        """The second branch alone."""
        return self._branch(x, 1, "y")

    def _branch(self, x: Tensor, half: int, direction: str) -> Tensor:
        if is_plain(self.conv_in):
            x = pointwise_conv(x, self.conv_in.weight.chunk(2)[half])
        else:
            x = self.conv_in(x).chunk(2, dim=1)[half]
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C/2)
        return self.mix(x.unsqueeze(3), (direction,)).squeeze(3).permute(0, 3, 1, 2)


@plain
class InterScanner(Scanner):
    """Each row (column) is averaged to one step of a sequence down (across) the image (Eq. 4).

    The sigmoid of what the mixer makes of the sequence scales the row (column) it came from.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)  # (B, C, H, W)
        return self.gated(x, *self.gates(x))

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What conv_in has made of the map -> how far its rows (B, H, C/2) and columns (B, W, C/2) are let through."""
        down, across = line_means(x)
        if _learnt_together(down, across):
            return self._scan_rows(torch.stack([down, across], dim=1)).unbind(1)
        return self.scan(down), self.scan(across)

    def gated(self, x: Tensor, down: Tensor, across: Tensor) -> Tensor:
        return self.conv_out(line_gate(x, down, across))

    def scan(self, sequence: Tensor) -> Tensor:
        """(B, L, C/2) -> (B, L, C/2)."""
        return self._scan_rows(sequence.unsqueeze(1)).squeeze(1)

    def _scan_rows(self, rows: Tensor) -> Tensor:
        """Sequences of one length, (B, R, L, C/2) -> (B, R, L, C/2)."""
        return self.mix(rows.unsqueeze(3), ("x",)).squeeze(3)


def _learnt_together(down: Tensor, across: Tensor) -> bool:
    """Whether the sequences of a training crop pass the mixer as one batch, which halves its many short kernels.

    Of square ones: they are as long as each other. Tracing must not fix a size to that.
    """
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not traced and down.requires_grad and down.shape == across.shape


SCANNERS: dict[str, type[Scanner]] = {"intra": IntraScanner, "inter": InterScanner}
