"""The operators of the network, and the choice of what runs them."""

from __future__ import annotations

from xyscannet.ops.backends import Backend, active_backend, backends, use_backend
from xyscannet.ops.causal_conv1d import causal_conv1d_fn, slice_conv1d
from xyscannet.ops.selective_scan import selective_scan_fn, slice_scan

__all__ = [
    "Backend",
    "active_backend",
    "backends",
    "causal_conv1d_fn",
    "selective_scan_fn",
    "slice_conv1d",
    "slice_scan",
    "use_backend",
]
