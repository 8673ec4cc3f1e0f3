"""The door to the implementations: one kernel on a GPU, sub-frame by sub-frame in torch elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xyscannet.ops.backends import own_backend
from xyscannet.ops.exposure import reference


@dataclass(frozen=True)
class Exposure:
    """B scenes and the motion during their exposures: N sub-frames, of which an item uses its first `counts`.

    Homographies map pixels of the output about its centre to what `torch.nn.functional.grid_sample` takes
    (align_corners=False), with (x, y) at the output's pixel [0, 0] being `origin`. Beyond a scene its border goes on.
    Items with an object, in the batch's order, are in `behind`; b of them.

    Attributes:
        light: (B, 3, h', w') float32, sampled bicubically.
        excess: (B, 3, h', w') float32, sampled bilinearly and added, as it may jump; None for none.
        bright: for every item, whether its excess is anything but 0.
        counts: for every item, its sub-frames; descending.
        transforms: (B, N, 3, 3) float32.
        weights: (B, N) float32, by which sub-frames are added.
        behind: rows of the items in which an object moves before the scene; ascending.
        masks: (b, 1, h', w') float32, where in the scene the object is; None without objects.
        object_transforms: (b, N, 3, 3) float32, of the object.
        size: height and width of the output.
        origin: x and y of its first pixel.
    """

    light: Tensor
    excess: Tensor | None
    bright: tuple[bool, ...]
    counts: tuple[int, ...]
    transforms: Tensor
    weights: Tensor
    behind: tuple[int, ...]
    masks: Tensor | None
    object_transforms: Tensor | None
    size: tuple[int, int]
    origin: tuple[float, float]


def gathered(exposure: Exposure) -> Tensor:
    """The weighted sum of the sub-frames (B, 3, h, w) float32: of the scene, and before it of the object."""
    if own_backend(exposure.light.device.type) == "triton":
        from xyscannet.ops.exposure import triton

        return triton.gathered(exposure)
    return reference.gathered(exposure)
