"""What a camera's sensor gathers during an exposure: sub-frames of a scene, each seen through its own homography."""

from xyscannet.ops.exposure.operator import Exposure, gathered

__all__ = ["Exposure", "gathered"]
