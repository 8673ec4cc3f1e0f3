"""XYScanNet: image deblurring by slicing and scanning along rows and columns.

    import xyscannet
    model = xyscannet.load("xyscannet-s")

Heavy modules are imported on first use: `import xyscannet` alone does not import torch.
"""

from __future__ import annotations

__version__ = "0.1.0"
__all__ = ["XYScanNet", "XYScanNetConfig", "__version__", "load"]


def __getattr__(name: str):
    if name == "load":
        from xyscannet.checkpoint import load_model

        return load_model
    if name in ("XYScanNet", "XYScanNetConfig"):
        from xyscannet import models

        return getattr(models, name)
    raise AttributeError(f"module 'xyscannet' has no attribute {name!r}")
