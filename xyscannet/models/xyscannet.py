"""XYScanNet (arXiv 2412.10338): a three-level U-Net whose decoder scans feature maps slice by slice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xyscannet.models import steps
from xyscannet.models.config import XYScanNetConfig
from xyscannet.models.fusion import FUSIONS
from xyscannet.models.layers import GDFN, Downsample, LayerNorm2d, Pointwise, Upsample, spatial
from xyscannet.models.plain import plain
from xyscannet.models.ss2d import SS2D
from xyscannet.models.vssm import VSSM


class EncoderBlock(nn.Module):
    """`x += GDFN(LN(x))` twice; (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, config: XYScanNetConfig) -> None:
        super().__init__()
        self.norm1_ffn = LayerNorm2d(channels)
        self.ffn1 = GDFN(channels, config.ffn_expansion)
        self.norm2_ffn = LayerNorm2d(channels)
        self.ffn2 = GDFN(channels, config.ffn_expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = steps.feed_forward(self.norm1_ffn, self.ffn1, x)
        return steps.feed_forward(self.norm2_ffn, self.ffn2, x)


def _state_space(kind: str, channels: int, config: XYScanNetConfig) -> nn.Module:
    """The module of a decoder block that scans: (B, C, H, W) -> (B, C, H, W)."""
    if kind == "ss2d":
        return SS2D(channels, config.d_state)
    mixer = {"d_state": config.d_state, "d_conv": config.d_conv, "expand": config.expand}
    return VSSM(channels, kind, bidirectional=config.bidirectional, **mixer)


class DecoderBlock(nn.Module):
    """Two VSSMs (or SS2Ds), each followed by a GDFN, all residual and pre-normalised; (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, config: XYScanNetConfig) -> None:
        super().__init__()
        first, second = config.scanners
        self.norm1_ssm = LayerNorm2d(channels)
        self.vssm1 = _state_space(first, channels, config)
        self.norm1_ffn = LayerNorm2d(channels)
        self.ffn1 = GDFN(channels, config.ffn_expansion)
        self.norm2_ssm = LayerNorm2d(channels)
        self.vssm2 = _state_space(second, channels, config)
        self.norm2_ffn = LayerNorm2d(channels)
        self.ffn2 = GDFN(channels, config.ffn_expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = steps.state_space(self.norm1_ssm, self.vssm1, x)
        x = steps.feed_forward(self.norm1_ffn, self.ffn1, x)
        x = steps.state_space(self.norm2_ssm, self.vssm2, x)
        return steps.feed_forward(self.norm2_ffn, self.ffn2, x)


@plain
class Reduce(Pointwise):
    """Skip connection: `concat(decoder, skip)` through a 1x1 convolution; two (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels, channels)

    def forward(self, decoder: Tensor, skip: Tensor) -> Tensor:
        return super().forward(torch.cat([decoder, skip], dim=1))


def _level(block: type[nn.Module], count: int, channels: int, config: XYScanNetConfig) -> nn.Sequential:
    return nn.Sequential(*[block(channels, config) for _ in range(count)])


class XYScanNet(nn.Module):
    """The deblurring network: blurred image in, restored image out.

    Input (B, 3, H, W), RGB in [0, 1], any H, W >= 1. Output of the same shape and type, not clamped. Each
    image's result is independent of the others in its batch.

    Args:
        config: sizes and switches; the default is the paper's C = 48 network.
    """

    def __init__(self, config: XYScanNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or XYScanNetConfig()
        c1, c2, c3 = config.width, 2 * config.width, 4 * config.width
        fusion = FUSIONS[config.fusion]

        self.patch_embed = spatial(3, c1)
        self.encoder_level1 = _level(EncoderBlock, config.encoder_blocks[0], c1, config)
        self.down1_2 = Downsample(c1)
        self.encoder_level2 = _level(EncoderBlock, config.encoder_blocks[1], c2, config)
        self.down2_3 = Downsample(c2)
        self.encoder_level3 = _level(EncoderBlock, config.encoder_blocks[2], c3, config)

        self.fusion_level1 = fusion((c1, c2, c3), config.gate)
        self.fusion_level2 = fusion((c2, c1, c3), config.gate)

        self.decoder_level3 = _level(DecoderBlock, config.decoder_blocks[2], c3, config)
        self.up3_2 = Upsample(c3)
        self.reduce_level2 = Reduce(c2)
        self.decoder_level2 = _level(DecoderBlock, config.decoder_blocks[1], c2, config)
        self.up2_1 = Upsample(c2)
        self.reduce_level1 = Reduce(c1)
        self.decoder_level1 = _level(DecoderBlock, config.decoder_blocks[0], c1, config)
        self.output = spatial(c1, 3)
        nn.init.zeros_(self.output.weight)  # an untrained network returns its input
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        image = pad_to_multiple(x, self.config.size_multiple)  # (B, 3, H', W')
        out = image + self.residual(image)
        return out[:, :, :height, :width]

    def residual(self, image: Tensor) -> Tensor:
        """What the network adds to `image` (B, 3, H, W); H and W multiples of 4."""
        x = (image - 0.5).contiguous(memory_format=torch.channels_last)
        x1 = self.encoder_level1(self.patch_embed(x))  # (B, C, H, W)
        x2 = self.encoder_level2(self.down1_2(x1))  # (B, 2C, H/2, W/2)
        x3 = self.encoder_level3(self.down2_3(x2))  # (B, 4C, H/4, W/4)

        skip1 = self.fusion_level1(x1, x2, x3)  # (B, C, H, W)
        skip2 = self.fusion_level2(x2, x1, x3)  # (B, 2C, H/2, W/2)

        x = self.up3_2(self.decoder_level3(x3))  # (B, 2C, H/2, W/2)
        x = self.up2_1(self.decoder_level2(self.reduce_level2(x, skip2)))  # (B, C, H, W)
        x = self.decoder_level1(self.reduce_level1(x, skip1))
        return self.output(x)  # (B, 3, H, W)

    def fuse(self) -> XYScanNet:
        """A copy for inference with neighbouring linear maps folded into one; see `xyscannet.models.fuse`."""
        from xyscannet.models.fuse import fuse

        return fuse(self)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """x (B, C, H, W) padded right and below to multiples of `multiple`, as `pad_edges` does."""
    height, width = x.shape[2:]
    # -n % multiple, which torch.compile cannot trace for sizes that vary
    right, below = (multiple - 1 - (n - 1) % multiple for n in (width, height))
    return pad_edges(x, right, below)


def pad_edges(x: Tensor, right: int, below: int) -> Tensor:
    """x (B, C, H, W) with so many pixels more right and below: reflected, or replicated where the image is too
    small to reflect."""
    height, width = x.shape[2:]
    if right:
        x = F.pad(x, (0, right, 0, 0), mode="reflect" if right < width else "replicate")
    if below:
        x = F.pad(x, (0, 0, 0, below), mode="reflect" if below < height else "replicate")
    return x


def block_shares(model: nn.Module) -> list[tuple[nn.Module, float]]:
    """The blocks of the three levels, and the share of a pass's time that each takes.

    Time goes with memory traffic, channels x pixels, which halves from level to level; a decoder block takes
    about five times as long as an encoder block.
    """
    found = []
    for side, factor in (("encoder", 1.0), ("decoder", 5.0)):
        for level in (1, 2, 3):
            blocks = getattr(model, f"{side}_level{level}", ())
            found += [(block, factor * 0.5**level) for block in blocks]
    total = sum(share for _, share in found)
    return [(block, share / total) for block, share in found]
