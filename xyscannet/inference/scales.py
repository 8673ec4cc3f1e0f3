"""Restore a picture from coarse to fine, beginning at the scale that its shake asks for.

A network removes shake up to some length. In a picture of half the size the same shake is half as long, so that what
is too long for the network at one scale is not at the next; what it finds there is enlarged, and the network goes over
it again at the larger scale. There is no need to know the shake: where the network changes more at half the size than
at the full size, the full size was too large for it. (Of shorter shake it removes the finest part at the full size
only, so that it changes more there.)

With x_0 the picture, x_k+1 the means of 2 x 2 pixels of x_k, f the network and U bicubic enlargement,

    e_k = f(x_k) - x_k                        what the network changes at scale k by itself
    g_k = log(rms(e_k+1) / rms(e_k))          how much more it changes at the next
    s_k = step(g_k) * step(rms(e_k+1))        the share of the next, smooth from 0 to 1
    y_k = (1 - s_k) f(x_k) + s_k f(x_k + U(y_k+1 - x_k+1))

and y_0 is the result. Scales below one whose share is 0 are not computed, and of all but small pictures none is where
the two windows that changed most show that there is nothing to find (`_worth_a_look`).

Restoring at several scales, each beginning with what the coarser one found, is the scheme of Nah et al., "Deep
multi-scale convolutional neural network for dynamic scene deblurring" (CVPR 2017); there every scale has weights of
its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xyscannet.errors import ConfigError, InputError
from xyscannet.inference.plan import ImagePlan, plan_for
from xyscannet.inference.restore import logger, restore

SCALES = 4  # at most: 1, 1/2, 1/4 and 1/8 of the size
SMALLEST_SIDE = 64  # pixels of a picture made smaller; auto goes no lower
# Chosen on training photographs shaken anew with paths of 2 to 60 pixels (24 for xyscannet-s, 10 for xyscannet-b) so
# that medium shake loses nothing; begun at -0.1, strong shake gains 0.2 dB more on crops of the validation photographs
# and a whole one loses 0.4 dB. The second keeps sharp pictures, where there is nothing to find, as they are.
_MORE = (0.0, 0.15)  # g where the next scale's share begins and where it is all
_ENOUGH = (0.003, 0.006)  # rms(e) likewise, in [0, 1]
# Of 56 training photographs shaken by 2 to 60 pixels, 17 had a g above 0 and 39 had not (xyscannet-s). The two windows
# of the 17 had at least -0.08, those of the 39 less than -0.3 in 24 cases. Of 56 pictures of at most 1280 x 720 pixels,
# with the smaller windows, these were 15, -0.02, and 23 of 41.
_WINDOWS = 2
_SIDES = (256, 128)  # of a window, in pixels of the smaller picture; two must be less than half of it
_UNLIKELY = -0.3  # g of the windows; below it the whole is not looked at
_AHEAD = 0.25  # of the work at full size: what progress keeps back for scales that may yet be needed


def restore_at_scales(
    model: nn.Module,
    image: Tensor,
    plan: ImagePlan | None = None,
    *,
    scales: str | int = "auto",
    tile: str | int = "auto",
    sharing: int = 1,
    ensemble: bool = False,
    dtype: torch.dtype | None = None,
    tell: Callable[[str], None] = logger.warning,
    progress: Callable[[float], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Deblur an image at the scales that suit its shake; each image of a batch by itself.

    All images of a batch go through each pass that one of them needs.

    Args:
        scales: "auto", or a number from 1, the full size only, to 4, from an eighth of it up.
        plan: at the full size; by default what `plan_for` says.
        tile, sharing: as for `plan_image`, at the other scales; `tile` also where memory runs out.
        model, image, ensemble, dtype, tell, progress: as for `restore`.

    Returns:
        the restored images (B, 3, H, W), as `restore` returns them, and (B, 4), on the CPU: how much of each is
        restored by 1, 2, 3 and 4 scales; of one image these sum to 1.

    Raises:
        InputError, ConfigError: as `restore`; ConfigError too where `scales` is neither. With "auto" a pass that fails
            after the first at full size is told, and what is finished by then is returned.
    """
    scales = checked_scales(scales)
    if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise ConfigError(f"an image must be of shape (B, 3, H, W), not {tuple(image.shape)}")
    home, weight = image.device, next(model.parameters())
    dtype = torch.float64 if weight.dtype == torch.float64 else dtype or weight.dtype
    planned = partial(plan_for, model, dtype=dtype, tile=tile, sharing=sharing)
    plan = plan or planned(*image.shape[2:])
    told: set[str] = set()
    reached = 0.0

    def tell_once(text: str) -> None:
        if text not in told:
            told.add(text)
            tell(text)

    def network(picture: Tensor, rest: float) -> Tensor:
        """A pass; `rest` is the work that is known to follow, in passes at full size."""
        nonlocal reached
        work = picture.numel() / image.numel()
        begin, end = reached, reached + (1 - reached) * work / (work + rest)
        part = progress and (lambda share: progress(begin + share * (end - begin)))
        here = plan if picture.shape == image.shape else planned(*picture.shape[2:])
        reached = end
        return restore(
            model, picture, here, tile=tile, ensemble=ensemble, dtype=dtype, tell=tell_once, progress=part
        )

    with torch.inference_mode():
        if plan.mode != "tiles":
            image = image.to(weight.device)
        image = image.float()
        if scales == "auto":
            restored, shares = _as_needed(image, network, tell_once)
        else:
            restored, shares = _through(image, scales, network)
        if progress:
            progress(1.0)
        return restored.to(home), shares


def checked_scales(scales: str | int) -> str | int:
    """`scales` if it is "auto" or a number from 1 to 4. Raises ConfigError."""
    if scales == "auto" or (
        isinstance(scales, int) and not isinstance(scales, bool) and 1 <= scales <= SCALES
    ):
        return scales
    raise ConfigError(f"scales must be auto or a number from 1 to {SCALES}, not {scales!r}")


def smaller(image: Tensor) -> Tensor:
    """(..., H, W) to half of each side, rounded up: means of 2 x 2 pixels, the last row or column repeated."""
    height, width = image.shape[-2:]
    if height % 2 or width % 2:
        image = F.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
    return F.avg_pool2d(image, 2)


def _through(image: Tensor, scales: int, network: Callable[[Tensor, float], Tensor]) -> tuple[Tensor, Tensor]:
    """All of these scales, none by itself."""
    pictures = [image]
    while len(pictures) < scales:
        pictures.append(smaller(pictures[-1]))
    works = [0.25**k for k in range(scales)]
    restored = network(pictures[-1], sum(works[:-1]))
    for k in range(scales - 2, -1, -1):
        restored = network(_begun(pictures[k], pictures[k + 1], restored), sum(works[:k]))
    return restored, _all_by(scales, len(image))


def _as_needed(
    image: Tensor, network: Callable[[Tensor, float], Tensor], tell: Callable[[str], None]
) -> tuple[Tensor, Tensor]:
    """What is finished at a larger scale stays where a smaller one fails, or going over what that one found."""
    pictures, results, steps = [image], [network(image, _AHEAD)], []
    changed = _rms(results[0], image)
    try:
        while len(pictures) < SCALES:
            picture = smaller(pictures[-1])
            if min(picture.shape[2:]) < SMALLEST_SIDE:
                break
            rest = sum(0.25**k for k in range(len(steps))) + _AHEAD
            worth = _worth_a_look(picture, pictures[-1], results[-1], partial(network, rest=rest))
            if not bool(worth.any()):
                break
            result = network(picture, rest)
            before, changed = changed, _rms(result, picture)
            step = _step(torch.log(changed / before.clamp_min(1e-9)), _MORE) * _step(changed, _ENOUGH) * worth
            if not bool(step.any()):
                break
            pictures.append(picture)
            results.append(result)
            steps.append(step)
    except InputError as error:
        tell(f"not restored from smaller scales up: {error}")
    restored, shares = results.pop(), _all_by(len(steps) + 1, len(image))
    for k in range(len(steps) - 1, -1, -1):
        begun, result, step = _begun(pictures[k], pictures.pop(), restored), results.pop(), steps[k][:, None]
        del restored
        try:
            refined = network(begun, sum(0.25**j for j in range(k)))
        except InputError as error:
            tell(f"restored without what smaller scales found: {error}")
            restored, shares = result, _all_by(k + 1, len(image))
            continue
        shares = torch.lerp(_all_by(k + 1, len(image)), shares, step)
        step = step.to(image.device)[..., None, None]
        restored = torch.where(step > 0, torch.lerp(result, refined, step), result)
        del begun, result, refined
    return restored, shares


def _worth_a_look(
    picture: Tensor, larger: Tensor, restored: Tensor, network: Callable[[Tensor], Tensor]
) -> Tensor:
    """Of each image, (B,), on the CPU: whether `picture`, `larger` in half of its size, may have a g above 0.

    `restored` is `larger` deblurred. The windows looked at are those in which that changed the most: they decide about
    rms(e), and so about g, of the whole. Where they are half of `picture` or more, nothing is looked at: it may.
    """
    height, width = picture.shape[2:]
    sides = [n for n in _SIDES if n <= min(height, width) and 2 * _WINDOWS * n**2 < height * width]
    if not sides:
        return torch.ones(len(picture), dtype=torch.bool)
    side = sides[0]
    power = torch.cat([(a - b).square_().mean(0)[None, None] for a, b in zip(restored, larger)])
    stride = side // 4
    power = F.avg_pool2d(smaller(power), side, stride)[:, 0].cpu()
    windows, before = [], torch.zeros(len(picture))
    for i, found in enumerate(power):
        for _ in range(_WINDOWS):
            row, column = divmod(int(found.argmax()), found.shape[1])
            before[i] += found[row, column]
            found[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = -1  # at most half of it twice
            top, left = row * stride, column * stride
            windows.append(picture[i, :, top : top + side, left : left + side])
    seen = torch.stack(windows)
    changed = (network(seen) - seen).square_().mean((1, 2, 3)).cpu().reshape(-1, _WINDOWS).sum(1)
    return torch.log(changed / before.clamp_min(1e-18)) > 2 * _UNLIKELY


def _all_by(scales: int, images: int) -> Tensor:
    """Shares of images that are restored by this number of scales: (images, 4)."""
    return F.one_hot(torch.full((images,), scales - 1), SCALES).float()


def _begun(picture: Tensor, below: Tensor, restored: Tensor) -> Tensor:
    """A picture with what was changed in the one below it, of half the size."""
    height, width = picture.shape[2:]
    change = F.interpolate(restored - below, scale_factor=2, mode="bicubic", align_corners=False)
    return (picture + change[..., :height, :width]).clamp_(0, 1)


def _rms(restored: Tensor, picture: Tensor) -> Tensor:
    """Of what was changed in each image, (B,), on the CPU."""
    return torch.stack([(a - b).square_().mean().sqrt_() for a, b in zip(restored, picture)]).cpu()


def _step(value: Tensor, between: tuple[float, float]) -> Tensor:
    """0 below `between`, 1 above, smooth (3 t^2 - 2 t^3) in it."""
    low, high = between
    t = ((value - low) / (high - low)).clamp(0, 1)
    return (t * t * (3 - 2 * t)).float()
