"""XYScanNet: image deblurring by slicing and scanning along rows and columns.

    import xyscannet
    model = xyscannet.load("xyscannet-s")
    restored = model.restore(image)

Heavy modules are imported on first use: `import xyscannet` alone does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xyscannet.inference.library import load
    from xyscannet.models import XYScanNet, XYScanNetConfig

__version__ = "0.1.0"
__all__ = ["XYScanNet", "XYScanNetConfig", "__version__", "load"]


def __getattr__(name: str) -> object:
    if name == "load":
        from xyscannet.inference.library import load

        return load
    if name in ("XYScanNet", "XYScanNetConfig"):
        from xyscannet import models

        return getattr(models, name)
    raise AttributeError(f"module 'xyscannet' has no attribute {name!r}")
