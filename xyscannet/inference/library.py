"""The library's door: `model = xyscannet.load("xyscannet-s")`, then `model.restore(image)`."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from xyscannet import checkpoint
from xyscannet.errors import ConfigError
from xyscannet.inference.scales import restore_at_scales
from xyscannet.models import XYScanNet

Image = TypeVar("Image", Tensor, np.ndarray)

_LARGEST = 4.0  # of floating images; highlights may lie above 1, but 255 is no image in [0, 1]
_WHITE = {torch.uint8: 255, torch.uint16: 65535}


class Restorer(XYScanNet):
    """A network that also restores pictures as they are: `restore` beside the bare `forward`."""

    def restore(
        self,
        image: Image,
        *,
        scales: str | int = "auto",
        tile: str | int = "auto",
        ensemble: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Image:
        """Deblur a picture, whole where memory allows, else in blended tiles, and give it back as it came.

        Args:
            image: RGB, a NumPy array (H, W, 3) or a tensor (3, H, W) or (B, 3, H, W), of any H and W: uint8 or
                uint16 over their whole range, or floating in [0, 1]. A tensor may lie on any device.
            scales: the sizes at which the network sees it: 1, the full one; 2, half of it first; up to 4; "auto", as
                many as its shake needs. See `restore_at_scales`.
            tile: "auto", "none", or the longest side of a tile in pixels; see `plan_image`.
            ensemble: average over the eight flips and rotations, for eight times the time.
            dtype: arithmetic of the network: float32, or bfloat16 or float16 by autocast; by default the type of
                its weights (float64 weights compute in float64).

        Returns:
            The restored picture: the kind, shape, type and device of `image`, clamped to white and black, integers
            rounded. `image` itself is not changed.

        Raises:
            ConfigError: no such picture, by its shape, type or range, or `scales` or a `tile` that are none.
            InputError: the image holds numbers that are not finite, or memory runs out in tiles too.
        """
        if isinstance(image, np.ndarray):
            if image.ndim != 3 or image.shape[2] != 3:
                raise ConfigError(f"an array must be of shape (H, W, 3), RGB, not {image.shape}")
            if image.dtype.kind not in "ufi" or image.dtype.itemsize > 8:
                raise ConfigError(f"an image must be uint8, uint16 or floating, not {image.dtype}")
            pixels = torch.from_numpy(
                np.array(image.astype(image.dtype.newbyteorder("="), copy=False), order="C")
            )
            restored = self._restored(pixels.permute(2, 0, 1)[None], scales, tile, ensemble, dtype)
            return restored[0].permute(1, 2, 0).numpy().astype(image.dtype, order="C")
        if not isinstance(image, Tensor):
            raise ConfigError(f"an image must be a tensor or a NumPy array, not {type(image).__name__}")
        if image.ndim not in (3, 4):
            raise ConfigError(
                f"a tensor must be of shape (3, H, W) or (B, 3, H, W), not {tuple(image.shape)}"
            )
        batch = image.detach() if image.ndim == 4 else image.detach()[None]
        return self._restored(batch, scales, tile, ensemble, dtype).reshape(image.shape)

    def _restored(
        self, batch: Tensor, scales: str | int, tile: str | int, ensemble: bool, dtype: torch.dtype | None
    ) -> Tensor:
        """(B, 3, H, W) of any supported type on any device, into the same."""
        if batch.dtype not in _WHITE and not batch.is_floating_point():
            raise ConfigError(f"an image must be uint8, uint16 or floating, not {batch.dtype}")
        if batch.ndim != 4 or batch.shape[1] != 3 or 0 in batch.shape:
            raise ConfigError(
                f"a tensor must be of shape (3, H, W) or (B, 3, H, W), not {tuple(batch.shape)}"
            )
        white = _WHITE.get(batch.dtype, 1)
        pixels = batch.float() / white
        if bool((pixels.abs() > _LARGEST).any()) and bool(pixels.isfinite().all()):
            raise ConfigError(
                f"a floating image must lie in [0, 1]; this one goes to {float(pixels.abs().max()):g}"
            )
        restored, _ = restore_at_scales(
            self, pixels, scales=scales, tile=tile, ensemble=ensemble, dtype=dtype
        )
        restored = restored * white
        return (restored if white == 1 else restored.round_()).to(batch.dtype)


def load(
    name_or_path: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    channel_order: str = "rgb",
) -> Restorer:
    """The network of a named model's embedded weights or of a checkpoint file, here or at an address, in eval mode.

    It is called like any module, `model(x)` with x (B, 3, H, W) in [0, 1], or `model.restore(image)`.

    Args:
        name_or_path: a name of `xyscan models list`, a .safetensors file, or one of the authors' .pth files; or the
            address of such a file (s3://, https://, ...), which is fetched anew by every call.
        device: where it is to compute.
        dtype: type of its weights; those of the scan are float32 at least.
        channel_order: "bgr" for a .pth file that was trained on BGR images.

    Raises:
        UnavailableError: the file is not there, its address cannot be reached or needs a package, or no weights are
            embedded for the name.
        ConfigError: it is no checkpoint of this network, or neither a name nor a file.
    """
    return checkpoint.load_model(
        name_or_path, device=device, dtype=dtype, channel_order=channel_order, kind=Restorer
    )
