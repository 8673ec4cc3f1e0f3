"""Classical deblurring by scikit-image, as baselines: sharpening, and deconvolution that is told the true kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from xyscannet.errors import UnavailableError

Method = Callable[[np.ndarray, np.ndarray], np.ndarray]


def methods() -> dict[str, dict[str, Method]]:
    """Methods by name and setting: blurred (H, W, 3) uint8 and the kernel (k, k) -> restored (H, W, 3) uint8.

    They work on the picture as it is encoded, one channel at a time. scikit-image's deconvolutions take the picture
    for periodic or black beyond its border: it is continued by its mirror image there, and cut again.

    Raises:
        UnavailableError: scikit-image is not installed.
    """
    try:
        import skimage  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            "the classical methods need the package scikit-image: pip install 'xyscannet[metrics]'"
        ) from error
    return {
        "unsharp mask": {
            f"radius {radius}, amount {amount}": partial(_unsharp, radius=radius, amount=amount)
            for radius in (1, 2, 4)
            for amount in (0.5, 1.0, 2.0)
        },
        "Wiener": {
            f"balance {balance}": partial(_wiener, balance=balance)
            for balance in (0.003, 0.01, 0.03, 0.1, 0.3)
        },
        "Richardson-Lucy": {
            f"{count} iterations": partial(_richardson_lucy, count=count) for count in (2, 5, 10, 20)
        },
    }


def _unsharp(image: np.ndarray, kernel: np.ndarray, radius: float, amount: float) -> np.ndarray:
    from skimage.filters import unsharp_mask

    return _to_8_bit(unsharp_mask(image / 255, radius=radius, amount=amount, channel_axis=2))


def _wiener(image: np.ndarray, kernel: np.ndarray, balance: float) -> np.ndarray:
    from skimage.restoration import wiener

    return _by_channel(image, kernel, lambda channel: wiener(channel, kernel, balance, clip=False))


def _richardson_lucy(image: np.ndarray, kernel: np.ndarray, count: int) -> np.ndarray:
    from skimage.restoration import richardson_lucy

    return _by_channel(
        image, kernel, lambda channel: richardson_lucy(channel, kernel, count, filter_epsilon=1e-6)
    )


def _by_channel(
    image: np.ndarray, kernel: np.ndarray, restore: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    height, width = image.shape[:2]
    margin = min(4 * len(kernel), height - 1, width - 1)

    def channels() -> Iterator[np.ndarray]:
        for channel in np.moveaxis(image / 255, 2, 0):
            restored = restore(np.pad(channel, margin, mode="symmetric"))
            yield restored[margin : margin + height, margin : margin + width]

    return _to_8_bit(np.stack(list(channels()), axis=2))


def _to_8_bit(image: np.ndarray) -> np.ndarray:
    return (image.clip(0, 1) * 255).round().astype(np.uint8)
