"""What every metric is computed on: the 8-bit RGB pixels of the files that a user would get."""

from __future__ import annotations

import numpy as np

from xyscannet.errors import InputError


def rgb8(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of a grey or RGB image, (H, W), (H, W, 1) or (H, W, 3), with 8 or 16 bits per channel.

    Grey is repeated over the three channels. 16 bits become 8 by value / 257, rounded half up, which maps 0..65535
    evenly onto 0..255. Raises InputError for any other shape or type, an empty image and an alpha channel.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.size == 0:
        raise InputError(
            f"metrics take grey or RGB images without alpha, not an array of shape {image.shape}"
        )
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise InputError(f"metrics take 8- or 16-bit images, not {image.dtype}")
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def size(image: np.ndarray) -> str:
    """Width x height, for messages."""
    return f"{image.shape[1]}×{image.shape[0]}"
