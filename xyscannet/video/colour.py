"""From the planes of frames to RGB for the network, and its change back onto the planes.

The change that the network makes is added to the samples as they were coded, so samples that it leaves alone come
out as they went in, bit for bit: no round trip through RGB, and none through interpolated chroma, touches the colours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .pixels import LUMA, Layout, matrix_of


class Samples:
    """How samples stand for colours: the matrix and the range of YUV.

    Args:
        layout: the planes.
        matrix: number of the matrix in ITU-T H.273; unknown ones go by the picture's height.
        full_range: samples use all values; else luma has 219 steps above 16 and chroma 224 around 128, at 8 bit.
        height: rows of the picture.
        fields: rows of chroma belong to the two fields in turn, as rows of luma do.
    """

    def __init__(
        self, layout: Layout, matrix: int, full_range: bool, height: int, fields: bool = False
    ) -> None:
        self.layout, self.fields = layout, fields
        self.red, self.blue = LUMA[matrix_of(matrix, height)]
        unit = 2 ** (layout.bits - 8)
        full = full_range or layout.kind == "rgb"
        self.black = 0 if full else 16 * unit
        self.luma = layout.white if full else 219 * unit
        self.chroma = layout.white if full else 224 * unit

    def to_rgb(self, planes: Sequence[Tensor]) -> Tensor:
        """RGB (B, 3, H, W), float32, of planes (B, h, w) of integers; black is 0 and white 1, not clipped."""
        if self.fields:
            return woven(*(self._to_rgb([plane[:, k::2] for plane in planes]) for k in (0, 1)))
        return self._to_rgb(planes)

    def _to_rgb(self, planes: Sequence[Tensor]) -> Tensor:
        if self.layout.kind == "rgb":
            green, blue, red = (plane.float() / self.luma for plane in planes[:3])
            return torch.stack((red, green, blue), 1)
        y = (planes[0].float() - self.black) / self.luma
        if self.layout.kind == "grey":
            return y[:, None].expand(-1, 3, -1, -1)
        middle = (self.layout.white + 1) // 2
        u, v = ((plane.float() - middle) / self.chroma for plane in planes[1:3])
        u, v = (self._up(plane, *y.shape[1:]) for plane in (u, v))
        red = y + 2 * (1 - self.red) * v
        blue = y + 2 * (1 - self.blue) * u
        green = (y - self.red * red - self.blue * blue) / (1 - self.red - self.blue)
        return torch.stack((red, green, blue), 1)

    def changed(self, planes: Sequence[Tensor], change: Tensor) -> list[Tensor]:
        """The planes after a change of their RGB.

        Args:
            planes: (B, h, w) integers; planes of opacity pass through.
            change: (B, 3, H, W), in the units of `to_rgb`.

        Returns:
            (B, h, w), rounded and clipped to the layout's values: uint8, or int32 for more than 8 bits.
        """
        if self.fields:
            parts = (self._changed([p[:, k::2] for p in planes], change[:, :, k::2]) for k in (0, 1))
            return list(map(woven, *parts))
        return self._changed(planes, change)

    def _changed(self, planes: Sequence[Tensor], change: Tensor) -> list[Tensor]:
        red, green, blue = change.unbind(1)
        if self.layout.kind == "rgb":
            parts = [part * self.luma for part in (green, blue, red)]
        else:
            y = self.red * red + (1 - self.red - self.blue) * green + self.blue * blue
            parts = [y * self.luma]
        if self.layout.kind == "yuv":
            u, v = (blue - y) / (2 * (1 - self.blue)), (red - y) / (2 * (1 - self.red))
            parts += [self._down(plane) * self.chroma for plane in (u, v)]
        out = [(plane.float() + part).round_() for plane, part in zip(planes, parts)]
        out = [plane.clamp_(0, self.layout.white) for plane in out] + list(planes[len(parts) :])
        return [plane.to(torch.uint8 if self.layout.bits <= 8 else torch.int32) for plane in out]

    def _up(self, plane: Tensor, height: int, width: int) -> Tensor:
        """Chroma at every luma sample, between neighbours on a line; sited left, and between rows."""
        across, down = self.layout.across, self.layout.down
        plane = stretch(plane, 2, width, across, 0.0)
        return stretch(plane, 1, height, down, (down - 1) / 2)

    def _down(self, plane: Tensor) -> Tensor:
        """The mean over the luma samples around each chroma sample, weighted as `_up` weighs that one."""
        across, down = self.layout.across, self.layout.down
        plane = plane[:, None]
        if across > 1:
            steps = torch.arange(1 - across, across, device=plane.device)
            weights = (1 - steps.abs() / across) / across
            extra = -plane.shape[3] % across
            padded = F.pad(plane, (across - 1, across - 1 + extra, 0, 0), mode="replicate")
            plane = F.conv2d(padded, weights.to(plane.dtype).view(1, 1, 1, -1), stride=(1, across))
        if down > 1:
            plane = F.pad(plane, (0, 0, 0, -plane.shape[2] % down), mode="replicate")
            plane = F.avg_pool2d(plane, (down, 1))
        return plane[:, 0]


def woven(top: Tensor, bottom: Tensor) -> Tensor:
    """(..., H, W) of its even and its odd rows."""
    return torch.stack((top, bottom), -2).flatten(-3, -2)


def stretch(plane: Tensor, axis: int, length: int, factor: int, offset: float) -> Tensor:
    """Linear interpolation along an axis to `length` samples; sample i lies at (i - offset) / factor."""
    if factor == 1:
        return plane
    count = plane.shape[axis]
    before = torch.cat((plane.narrow(axis, 0, 1), plane.narrow(axis, 0, count - 1)), axis)
    after = torch.cat((plane.narrow(axis, 1, count - 1), plane.narrow(axis, count - 1, 1)), axis)
    phases = [(phase - offset) / factor for phase in range(factor)]
    parts = [torch.lerp(plane, before if phase < 0 else after, abs(phase)) for phase in phases]
    return torch.stack(parts, axis + 1).flatten(axis, axis + 1).narrow(axis, 0, length)
