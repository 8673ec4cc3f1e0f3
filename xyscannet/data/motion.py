"""Motion during an exposure: random smooth paths, the homographies they cause, and where to place sub-frames.

Time runs from 0 to 1 over the exposure in `STEPS` samples; at the middle one every motion is exactly zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEPS = 129
MIDDLE = STEPS // 2


def smooth_path(curvature: Tensor, jitter: Tensor, axes: int, generator: torch.Generator | None) -> Tensor:
    """Random paths (B, STEPS, axes) in arbitrary units, zero in the middle of the exposure.

    The velocity is a fixed direction plus low harmonics weighted by `curvature` (B,) (0 = straight and uniform)
    plus fast ones weighted by `jitter` (B,); the path is its integral.
    """
    B, device = len(curvature), curvature.device
    time = torch.linspace(0, 1, STEPS, device=device, dtype=torch.float64)

    def harmonics(first: int, last: int) -> Tensor:
        orders = torch.arange(first, last + 1, device=device, dtype=torch.float64)
        phase = torch.rand(B, axes, len(orders), device=device, generator=generator, dtype=torch.float64)
        size = torch.randn(B, axes, len(orders), device=device, generator=generator, dtype=torch.float64)
        waves = torch.sin(
            math.pi * orders * time[:, None] + 2 * math.pi * phase[:, :, None]
        )  # (B, axes, T, orders)
        return (waves * size[:, :, None] * first / orders).sum(-1)  # (B, axes, T)

    slow, fast = harmonics(1, 3), harmonics(6, 12)
    direction = torch.randn(B, axes, 1, device=device, generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=1, keepdim=True).clamp_min(1e-6)
    velocity = direction + curvature.view(-1, 1, 1) * slow + jitter.view(-1, 1, 1) * fast
    steps = (velocity[..., 1:] + velocity[..., :-1]) / 2
    path = torch.cat((torch.zeros_like(steps[..., :1]), steps.cumsum(-1)), -1)
    return ((path - path[..., MIDDLE : MIDDLE + 1]) / (STEPS - 1)).transpose(1, 2)


def homographies(angles: Tensor, shift: Tensor, focal: Tensor, principal: Tensor) -> Tensor:
    """T K R K^-1 at every time: where a pixel of the frame lies in the sharp image, about the image's centre.

    angles (B, T, 3): pitch, yaw, roll in radian; shift (B, T, 2): x, y in pixels; focal (B,) in pixels;
    principal (B, 2): x, y of the optical axis from the image's centre, in pixels. Returns (B, T, 3, 3) float64.
    """
    pitch, yaw, roll = angles.double().unbind(-1)
    zero, one = torch.zeros_like(pitch), torch.ones_like(pitch)

    def matrix(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    about_x = matrix((one, zero, zero), (zero, pitch.cos(), -pitch.sin()), (zero, pitch.sin(), pitch.cos()))
    about_y = matrix((yaw.cos(), zero, yaw.sin()), (zero, one, zero), (-yaw.sin(), zero, yaw.cos()))
    about_z = matrix((roll.cos(), -roll.sin(), zero), (roll.sin(), roll.cos(), zero), (zero, zero, one))
    camera = torch.zeros(len(focal), 1, 3, 3, dtype=torch.float64, device=focal.device)
    camera[:, 0, 0, 0] = camera[:, 0, 1, 1] = focal.double()
    camera[:, 0, :2, 2] = principal.double()
    camera[:, 0, 2, 2] = 1
    return translations(shift) @ camera @ about_z @ about_x @ about_y @ torch.linalg.inv(camera)


def translations(shift: Tensor) -> Tensor:
    """Homographies (B, T, 3, 3) float64 of shifts (B, T, 2) in pixels."""
    matrix = torch.eye(3, dtype=torch.float64, device=shift.device).repeat(*shift.shape[:2], 1, 1)
    matrix[..., :2, 2] = shift.double()
    return matrix


def tracks(transforms: Tensor, height: int, width: int) -> Tensor:
    """Where the centre and the four corners of an image go: (B, T, 5, 2) pixels about its centre."""
    x, y = (width - 1) / 2, (height - 1) / 2
    points = [(0.0, 0.0, 1.0), (-x, -y, 1.0), (x, -y, 1.0), (-x, y, 1.0), (x, y, 1.0)]
    moved = transforms @ torch.tensor(points, dtype=torch.float64, device=transforms.device).T  # (B, T, 3, 5)
    return (moved[..., :2, :] / moved[..., 2:, :]).transpose(-1, -2)


def lengths(points: Tensor) -> Tensor:
    """Length in pixels of each track of (B, T, P, 2): (B, P)."""
    return distances(points[:, 1:] - points[:, :-1]).sum(1)


def distances(offsets: Tensor) -> Tensor:
    """Lengths (...) of offsets (..., 2); `norm` takes ten times as long."""
    return torch.hypot(offsets[..., 0], offsets[..., 1])


def place_frames(points: Tensor, step: float) -> tuple[list[int], Tensor, Tensor]:
    """Sub-frames along tracks (B, T, P, 2), at most `step` pixels apart for the fastest point.

    Returns the odd number of frames of each item, their times (B, N) in [0, 1] and weights (B, N), which are the
    share of the exposure each frame stands for (0 beyond an item's own number).
    """
    T = points.shape[1]
    travelled = distances(points[:, 1:] - points[:, :-1]).amax(-1).cumsum(1)  # (B, T - 1)
    travelled = torch.cat((torch.zeros_like(travelled[:, :1]), travelled), 1)
    total = travelled[:, -1]
    counts = [
        2 * math.ceil((length / step - 1e-6 - 1) / 2) + 1 if length > step else 1 for length in total.tolist()
    ]
    number = torch.tensor(counts, dtype=torch.float64, device=points.device).view(-1, 1)
    # A trace of uniform speed keeps the inversion defined where nothing moves.
    clock = torch.linspace(0, 1, T, dtype=torch.float64, device=points.device)
    travelled = travelled + clock * (1e-6 + 1e-6 * total[:, None])
    frames = torch.arange(2 * max(counts) + 1, dtype=torch.float64, device=points.device) / 2
    wanted = (frames / number).clamp(max=1) * travelled[:, -1:]  # frame edges and middles in turn
    right = torch.searchsorted(travelled, wanted.contiguous()).clamp(1, T - 1)
    before, after = travelled.gather(1, right - 1), travelled.gather(1, right)
    times = (right - 1 + (wanted - before) / (after - before)) / (T - 1)
    return counts, times[:, 1::2], times[:, 2::2] - times[:, :-2:2]


def at_times(path: Tensor, times: Tensor) -> Tensor:
    """Linear interpolation of path (B, T, ...) at times (B, N) in [0, 1]: (B, N, ...)."""
    position = times * (path.shape[1] - 1)
    left = position.floor().long().clamp(0, path.shape[1] - 2)
    rows = torch.arange(len(path), device=path.device)[:, None]
    share = (position - left).view(*times.shape, *[1] * (path.dim() - 2))
    return path[rows, left] * (1 - share) + path[rows, left + 1] * share
