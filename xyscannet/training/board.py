"""TensorBoard's event files of a run: the log's numbers and restored validation images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from xyscannet.errors import UnavailableError
from xyscannet.files import shown

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_STEP = ("loss", "charbonnier", "edge", "contrastive", "lpips", "lr", "grad_norm", "crops_per_s", "data_wait")
_VALIDATION = ("psnr", "ssim", "psnr_blur", "ssim_blur", "psnr_sharp_input", "worse")


def summary_writer() -> type[SummaryWriter]:
    """What writes event files. Raises UnavailableError where the package tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UnavailableError(
            "tensorboard is not installed: pip install 'xyscannet[train]', or --set tensorboard=false"
        ) from error
    return SummaryWriter


class Board:
    """Event files in a run's folder `tensorboard`; what a run before has recorded after `step` is forgotten.

    Raises as `summary_writer` does.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = summary_writer()(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, record: dict[str, Any]) -> None:
        """Take in a record of the run's log."""
        wanted = {"step": _STEP, "validation": _VALIDATION}.get(record["event"], ())
        group = "train" if record["event"] == "step" else "validation"
        for name in wanted:
            if name in record:
                self._writer.add_scalar(f"{group}/{name}", record[name], record["step"])

    def add_images(self, examples: dict[str, torch.Tensor], step: int) -> None:
        """Show uint8 images (3, H, W) by name."""
        for name, image in examples.items():
            self._writer.add_image(f"validation/{shown(name)}", image, step)

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()


def centre(image: torch.Tensor, side: int = 256) -> torch.Tensor:
    """The middle of an image (3, H, W), at most side x side, to be shown."""
    top, left = (max(size - side, 0) // 2 for size in image.shape[-2:])
    return image[:, top : top + side, left : left + side]
