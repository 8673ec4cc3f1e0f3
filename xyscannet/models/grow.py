"""A wider or deeper network that computes what a smaller one does, to train on from there."""

from __future__ import annotations

import torch
from torch import Tensor

from xyscannet.errors import ConfigError
from xyscannet.models.config import XYScanNetConfig
from xyscannet.models.init import lecun_normal_
from xyscannet.models.xyscannet import XYScanNet

_DEPTH = ("encoder_blocks", "decoder_blocks")
_ENDS = ("project_out.weight", "proj_out.weight")


def grow(small: XYScanNet, config: XYScanNetConfig) -> XYScanNet:
    """A network of `config` that gives what `small` gives, within rounding (Net2Net, Chen et al. 2016).

    Every channel becomes several alike. A map's weight from a channel is shared out among that channel's copies, by
    chance and otherwise for every output, so that the copies get gradients of their own and part in training. Layer
    norms see the same mean and variance. Blocks that are new stand last in their level and add nothing at the start,
    until their last map, zero, has learnt to; the ranks of delta that are new add nothing either.

    Returns float32, on the CPU, with gradients; drawn from torch's global generator.

    Raises:
        ConfigError: a width is no multiple, a level has fewer blocks, another option differs, or "ss2d" scans.
    """
    _check(small.config, config)
    large = lecun_normal_(XYScanNet(config))
    known = small.state_dict()
    with torch.no_grad():
        for name, x in large.state_dict().items():
            if name in known:
                x.copy_(_widened(name, known[name].float().cpu(), x, config.d_state))
            elif name.endswith(_ENDS):
                x.zero_()
    return large.train()


def _check(small: XYScanNetConfig, large: XYScanNetConfig) -> None:
    if "ss2d" in large.scanners:
        raise ConfigError("a network with the scanner 'ss2d' does not grow")
    if large.width % small.width:
        raise ConfigError(f"width {small.width} grows to its multiples, not to {large.width}")
    asked = large.to_dict()
    for name, value in small.to_dict().items():
        wanted = asked[name]
        if name in _DEPTH and any(n > m for n, m in zip(value, wanted)):
            raise ConfigError(f"{name} grow from {value} to as many or more, not to {wanted}")
        if name not in _DEPTH and name != "width" and value != wanted:
            raise ConfigError(f"{name} stays {value!r} where a network grows, not {wanted!r}")
    hidden = [
        [round(config.width * n * config.ffn_expansion) for n in (1, 2, 4)] for config in (small, large)
    ]
    if any(wide % narrow for narrow, wide in zip(*hidden)):
        raise ConfigError(
            f"with ffn_expansion {small.ffn_expansion} the hidden widths {hidden[1]} are no multiples of {hidden[0]}"
        )


def _widened(name: str, x: Tensor, like: Tensor, states: int) -> Tensor:
    """A parameter of the small network at the shape of the large one's, whose random values serve where it is new."""
    if name.endswith("dt_proj.weight"):  # (E, rank)
        new = like.shape[1] - x.shape[1]
        return torch.cat([_copied(x, len(like)), like.new_zeros(len(like), new)], dim=1)
    if name.endswith("x_proj.weight"):  # (rank + 2N, E)
        rank, wide = len(x) - 2 * states, _shared(x, like.shape[1])
        return torch.cat([wide[:rank], like[rank : -2 * states], wide[rank:]])
    x = _copied(x, len(like))
    return x if x.dim() < 2 else _shared(x, like.shape[1])


def _copied(x: Tensor, outputs: int) -> Tensor:
    """x (O, ...) -> (outputs, ...), each output as often as it takes."""
    return x.repeat_interleave(outputs // len(x), dim=0)


def _shared(x: Tensor, inputs: int) -> Tensor:
    """x (O, I, ...) -> (O, inputs, ...): copies of an input get parts of its weight that add up to it."""
    times = inputs // x.shape[1]
    if times == 1:
        return x
    parts = torch.empty(*x.shape[:2], times, *x.shape[2:]).uniform_(0.5, 1.5)
    parts /= parts.sum(dim=2, keepdim=True)
    return (x.unsqueeze(2) * parts).flatten(1, 2)
