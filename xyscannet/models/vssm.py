"""Vision state space module (Section 3.3)."""

from __future__ import annotations

from torch import Tensor, nn

from xyscannet.models.layers import Depthwise, pointwise
from xyscannet.models.plain import is_plain, plain
from xyscannet.models.scanners import SCANNERS
from xyscannet.ops.convolution import pointwise_conv
from xyscannet.ops.depthwise import depthwise_conv
from xyscannet.ops.gate import silu_mul


@plain
class VSSM(nn.Module):
    """`proj_out(scanner(F) * silu(Y))` with (F, Y) = halves of a 3x3 depth-wise of a 1x1 convolution (Eq. 5).

    Input and output (B, C, H, W); the normalisation before and the sum after it belong to the block.

    Args:
        channels: C.
        scanner: "intra" or "inter".
        mixer: keyword arguments of the scanner (`bidirectional`, `d_state`, `d_conv`, `expand`).
    """

    def __init__(self, channels: int, scanner: str, **mixer: int | bool) -> None:
        super().__init__()
        self.proj_in = pointwise(channels, 2 * channels)
        self.dwconv = Depthwise(2 * channels)
        self.scanner = SCANNERS[scanner](channels, **mixer)
        self.proj_out = pointwise(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        features, gate = self.split(x)
        return self.merge(self.scanner(features), gate)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """F and Y, (B, C, H, W) each."""
        return self.dwconv(self.proj_in(x))

    def features(self, x: Tensor) -> Tensor:
        """F alone."""
        return self._half(x, 0)

    def gate(self, x: Tensor) -> Tensor:
        """Y alone."""
        return self._half(x, 1)

    def _half(self, x: Tensor, half: int) -> Tensor:
        if not is_plain(self.proj_in, self.dwconv):
            return self.split(x)[half]
        proj_in, dwconv = (conv.weight.chunk(2)[half] for conv in (self.proj_in, self.dwconv))
        return depthwise_conv(pointwise_conv(x, proj_in), dwconv)

    def merge(self, scanned: Tensor, gate: Tensor) -> Tensor:
        return self.proj_out(silu_mul(gate, scanned))
