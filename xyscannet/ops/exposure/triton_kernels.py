"""An exposure in Triton: a program follows a tile of pixels through all sub-frames of its image.

Interpolation is that of `torch.nn.functional.grid_sample` with padding_mode="border" and align_corners=False: cubic
convolution with a = -0.75, whose taps stop at the border, and bilinear, whose position does. Offsets within an image
have 32 bits, those of images 64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from xyscannet.ops.triton_pixels import unspecialised

_PLAIN = unspecialised(("height", "width", "scene_height", "scene_width", "frames"))


@triton.jit
def _position(transform, x, y, scene_height, scene_width):
    """Where in the scene, in its pixels from its first one, a homography (9 numbers) sends x and y."""
    across = tl.load(transform) * x + tl.load(transform + 1) * y + tl.load(transform + 2)
    down = tl.load(transform + 3) * x + tl.load(transform + 4) * y + tl.load(transform + 5)
    away = tl.load(transform + 6) * x + tl.load(transform + 7) * y + tl.load(transform + 8)
    across, down = across / away, down / away
    return ((across + 1.0) * scene_width - 1.0) * 0.5, ((down + 1.0) * scene_height - 1.0) * 0.5


@triton.jit
def _cubic(t, TAP: tl.constexpr):
    """Weight of one of the four taps about a position `t` in [0, 1) after the second."""
    x = tl.abs(t - (TAP - 1))
    if TAP == 1 or TAP == 2:
        weight = (1.25 * x - 2.25) * x * x + 1.0
    else:
        weight = ((-0.75 * x + 3.75) * x - 6.0) * x + 3.0
    return weight


@triton.jit
def _inside(place, size):
    return tl.minimum(tl.maximum(place, 0), size - 1)


@triton.jit
def _bicubic(image, mask, x, y, scene_height, scene_width, shown, MASK: tl.constexpr):
    """The three planes of an image, and of `mask` its one, at x and y."""
    left, top = tl.floor(x), tl.floor(y)
    column, row = left.to(tl.int32), top.to(tl.int32)
    plane = scene_height * scene_width
    red, green, blue, covered = x * 0.0, x * 0.0, x * 0.0, x * 0.0
    for j in tl.static_range(4):
        line = _inside(row + (j - 1), scene_height) * scene_width
        along_y = _cubic(y - top, j)
        for i in tl.static_range(4):
            at = line + _inside(column + (i - 1), scene_width)
            weight = along_y * _cubic(x - left, i)
            red += weight * tl.load(image + at, mask=shown, other=0.0)
            green += weight * tl.load(image + plane + at, mask=shown, other=0.0)
            blue += weight * tl.load(image + 2 * plane + at, mask=shown, other=0.0)
            if MASK:
                covered += weight * tl.load(mask + at, mask=shown, other=0.0)
    return red, green, blue, covered


@triton.jit
def _bilinear(image, x, y, scene_height, scene_width, shown):
    """The three planes of an image at x and y."""
    x = tl.minimum(tl.maximum(x, 0.0), scene_width - 1.0)
    y = tl.minimum(tl.maximum(y, 0.0), scene_height - 1.0)
    left, top = tl.floor(x), tl.floor(y)
    column, row = left.to(tl.int32), top.to(tl.int32)
    plane = scene_height * scene_width
    red, green, blue = x * 0.0, x * 0.0, x * 0.0
    for j in tl.static_range(2):
        line = _inside(row + j, scene_height) * scene_width
        along_y = 1.0 - tl.abs(y - top - j)
        for i in tl.static_range(2):
            at = line + _inside(column + i, scene_width)
            weight = along_y * (1.0 - tl.abs(x - left - i))
            red += weight * tl.load(image + at, mask=shown, other=0.0)
            green += weight * tl.load(image + plane + at, mask=shown, other=0.0)
            blue += weight * tl.load(image + 2 * plane + at, mask=shown, other=0.0)
    return red, green, blue


@triton.jit(**_PLAIN)
def gather(
    light, excess, masks, facts, transforms, object_transforms, weights, total,
    height, width, scene_height, scene_width, frames, x_first, y_first,
    HIGH: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of an image, images). `facts` (B, 3): sub-frames, which mask (-1 for none), whether excess counts."""
    item = tl.program_id(1).to(tl.int64)
    across = tl.cdiv(width, WIDE)
    tile_row = tl.program_id(0) // across
    pixel = tl.arange(0, HIGH * WIDE)
    row = tile_row * HIGH + pixel // WIDE
    column = (tl.program_id(0) - tile_row * across) * WIDE + pixel % WIDE
    shown = (row < height) & (column < width)
    x, y = column.to(tl.float32) + x_first, row.to(tl.float32) + y_first

    facts += 3 * item
    count, object_at, lit = tl.load(facts), tl.load(facts + 1), tl.load(facts + 2)
    plane = scene_height * scene_width
    light += item * 3 * plane
    excess += item * 3 * plane
    masks += tl.maximum(object_at, 0).to(tl.int64) * plane
    transforms += item * frames * 9
    object_transforms += tl.maximum(object_at, 0).to(tl.int64) * frames * 9
    weights += item * frames

    red, green, blue = x * 0.0, x * 0.0, x * 0.0
    for k in range(count):
        px, py = _position(transforms + 9 * k, x, y, scene_height, scene_width)
        r, g, b, _ = _bicubic(light, masks, px, py, scene_height, scene_width, shown, False)
        if lit > 0:
            more_r, more_g, more_b = _bilinear(excess, px, py, scene_height, scene_width, shown)
            r, g, b = r + more_r, g + more_g, b + more_b
        if object_at >= 0:
            px, py = _position(object_transforms + 9 * k, x, y, scene_height, scene_width)
            front_r, front_g, front_b, cover = _bicubic(
                light, masks, px, py, scene_height, scene_width, shown, True
            )
            if lit > 0:
                more_r, more_g, more_b = _bilinear(excess, px, py, scene_height, scene_width, shown)
                front_r, front_g, front_b = front_r + more_r, front_g + more_g, front_b + more_b
            cover = tl.minimum(tl.maximum(cover, 0.0), 1.0)
            r, g, b = r + cover * (front_r - r), g + cover * (front_g - g), b + cover * (front_b - b)
        weight = tl.load(weights + k)
        red, green, blue = red + weight * r, green + weight * g, blue + weight * b

    size = height * width
    out = total + item * 3 * size + row * width + column
    tl.store(out, red, mask=shown)
    tl.store(out + size, green, mask=shown)
    tl.store(out + 2 * size, blue, mask=shown)
