"""The camera behind the blur: response curve, highlights beyond white, noise and JPEG, on batches of tensors.

Every function treats each image of the batch by its own parameters only.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

SRGB_EXPONENT = 2.4
"""Exponent at which `to_light` lies within 0.006 of the sRGB curve: light is then truly linear."""

_TOE = 0.07
_WHITE_FROM = 0.985

# The example tables of the JPEG standard (ITU-T T.81, tables K.1 and K.2), in row order.
_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)


def _curve(exponent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    exponent = exponent.float().view(-1, 1, 1, 1)
    low = _TOE**exponent
    return exponent, low, (1 + _TOE) ** exponent - low


def to_light(encoded: Tensor, exponent: Tensor) -> Tensor:
    """Light of encoded values: ((x + t)^g - t^g) / ((1 + t)^g - t^g) with a small toe t.

    encoded (B, C, H, W) in [0, 1]; exponent (B,): 1 is the identity, `SRGB_EXPONENT` linear light.
    """
    exponent, low, span = _curve(exponent)
    return ((encoded + _TOE).pow(exponent) - low) / span


def to_encoded(light: Tensor, exponent: Tensor) -> Tensor:
    """Inverse of `to_light`; negative light is taken as 0."""
    exponent, low, span = _curve(exponent)
    return (light.clamp_min(0) * span + low).pow(1 / exponent) - _TOE


def highlight_excess(encoded: Tensor, light: Tensor, gain: Tensor) -> Tensor:
    """Light beyond white, (B, 3, H, W): what white pixels carry above the recorded light, up to `gain` (B,) times it.

    A channel does so where it is at white and so is at least one other: a saturated colour is no lamp.
    """
    white = ((encoded - _WHITE_FROM) / (1 - _WHITE_FROM)).clamp(0, 1)
    second = white.sum(1, keepdim=True) - white.amax(1, keepdim=True) - white.amin(1, keepdim=True)
    return white * second * light * (gain.view(-1, 1, 1, 1) - 1)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`, which nothing waits for: a GPU's stream may have much to do before the copy."""
    return tensor.to(device, non_blocking=True)


def add_noise(encoded: Tensor, full_well: Tensor, read_noise: Tensor, seeds: Tensor) -> Tensor:
    """Shot and read noise, added in linear light whatever the response; result clamped to [0, 1].

    encoded (B, 3, H, W); full_well (B,) photo-electrons at white, 0 = no noise; read_noise (B,) electrons RMS;
    seeds (B,) one per image; these on any device. Shot noise is Gaussian of the Poisson variance.
    """
    noisy = encoded.clamp(0, 1)
    chosen = [i for i, electrons in enumerate(full_well.tolist()) if electrons > 0]
    if not chosen:
        return noisy
    rows = torch.tensor(chosen, device=full_well.device)
    index = sent(rows, encoded.device) if len(chosen) < len(noisy) else None
    part = noisy if index is None else noisy[index]
    seed_list = seeds.tolist()
    draws = torch.empty_like(part)
    for row, item in enumerate(chosen):
        generator = torch.Generator(device=encoded.device).manual_seed(seed_list[item])
        draws[row].normal_(generator=generator)
    well, read = (sent(each[rows], encoded.device).view(-1, 1, 1, 1) for each in (full_well, read_noise))
    exponent = torch.full((len(part),), SRGB_EXPONENT, device=encoded.device)
    light = to_light(part, exponent)
    sigma = (light * well + read**2).clamp_min(0).sqrt() / well
    part = to_encoded(light + sigma * draws, exponent).clamp(0, 1)
    return part if index is None else noisy.index_copy(0, index, part)


@lru_cache(maxsize=8)
def _dct_matrix(device: torch.device) -> Tensor:
    k = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos((2 * k[None, :] + 1) * k[:, None] * math.pi / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.float().to(device)


@lru_cache(maxsize=8)
def _tables(device: torch.device) -> Tensor:
    return torch.tensor((_LUMA_TABLE, _CHROMA_TABLE, _CHROMA_TABLE), dtype=torch.float32, device=device)


def _quantise(plane: Tensor, table: Tensor) -> Tensor:
    """plane (B, H, W), H and W multiples of 8, values about 0; table (B, 8, 8)."""
    B, H, W = plane.shape
    dct = _dct_matrix(plane.device)
    blocks = plane.view(B, H // 8, 8, W // 8, 8).transpose(2, 3)  # (B, H/8, W/8, 8, 8)
    table = table.view(B, 1, 1, 8, 8)
    coefficients = torch.round(dct @ blocks @ dct.T / table) * table
    return (dct.T @ coefficients @ dct).transpose(2, 3).reshape(B, H, W)


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """What baseline JPEG with 4:2:0 chroma leaves of images (B, 3, H, W) in [0, 1]; quality (B,) 1..100, 0 = untouched.

    The standard's example tables scaled as in the IJG library; chroma is averaged 2x2 and interpolated linearly.
    """
    chosen = [i for i, q in enumerate(quality.tolist()) if q > 0]
    if not chosen:
        return images
    rows = torch.tensor(chosen, device=quality.device)
    index, q = (sent(each, images.device) for each in (rows, quality[rows].float()))
    part = images[index]
    height, width = part.shape[-2:]
    part = F.pad(part, (0, -width % 16, 0, -height % 16), mode="replicate")
    r, g, b = (torch.round(part.clamp(0, 1) * 255)).unbind(1)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    chroma = torch.stack(((b - luma) / 1.772, (r - luma) / 1.402), 1)  # (B, 2, H, W): Cb, Cr about 0
    chroma = torch.round(F.avg_pool2d(chroma, 2))
    scale = torch.where(q < 50, 5000 / q, 200 - 2 * q).view(-1, 1, 1, 1)
    tables = torch.floor((_tables(images.device) * scale + 50) / 100).clamp(1, 255)  # (B, 3, 8, 8)
    luma = _quantise(torch.round(luma) - 128, tables[:, 0]) + 128
    chroma = _quantise(chroma.flatten(0, 1), tables[:, 1:].flatten(0, 1)).view_as(chroma)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    cb, cr = chroma.unbind(1)
    rgb = torch.stack((luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb), 1)
    rgb = (rgb[..., :height, :width] / 255).clamp(0, 1)
    return images.index_copy(0, index, rgb)


def to_8_bit(images: Tensor) -> Tensor:
    """images rounded to the 256 levels of 8-bit files, still in [0, 1]."""
    return torch.round(images.clamp(0, 1) * 255) / 255
