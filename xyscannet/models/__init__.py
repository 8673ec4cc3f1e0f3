"""The network, its parts and its named sizes."""

from __future__ import annotations

from xyscannet.models.config import XYScanNetConfig
from xyscannet.models.xyscannet import XYScanNet

__all__ = ["XYScanNet", "XYScanNetConfig"]
