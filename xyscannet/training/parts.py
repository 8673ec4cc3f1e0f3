"""A run's network, optimiser and loss, made from its configuration."""

from __future__ import annotations

import torch
from torch import nn

from xyscannet import checkpoint
from xyscannet.errors import ConfigError
from xyscannet.losses import DeblurLoss, LossConfig
from xyscannet.metrics import perceptual
from xyscannet.models import XYScanNet, XYScanNetConfig, zoo
from xyscannet.models.grow import grow
from xyscannet.models.init import lecun_normal_
from xyscannet.models.mamba import SCAN_PARAMETERS
from xyscannet.training.config import OptimiserConfig, TrainConfig
from xyscannet.training.muon import Muon, is_matrix

_OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": Muon}


def make_model(config: TrainConfig, network: XYScanNetConfig, *, start: bool) -> tuple[nn.Module, str]:
    """The network to train, float32 and on the CPU, with gradients, and what its weights are, in words.

    Args:
        network: its configuration.
        start: with the weights to start from, where there are any; False where a state will replace them. A smaller
            network's are grown (`xyscannet.models.grow`).

    Raises ConfigError for weights of a network that does not grow to this one, and what loading them raises.
    """
    if config.start_from and start:
        model = checkpoint.load_model(config.start_from).train().requires_grad_(True)
        if model.config == network:
            return model, f"weights of {config.start_from}"
        return _grown(model, network, config.start_from), f"weights of {config.start_from}, grown"
    model = zoo.build(network)
    return lecun_normal_(model) if config.init == "lecun-normal" else model, "random weights"


def _grown(small: XYScanNet, network: XYScanNetConfig, source: str) -> nn.Module:
    try:
        return grow(small, network)
    except ConfigError as error:
        raise ConfigError(f"start_from: {source} holds another network: {error}") from error


def make_optimiser(
    options: OptimiserConfig, model: nn.Module, *, captured: bool = False
) -> torch.optim.Optimizer:
    """Adam, AdamW or Muon; norms, biases and the scans' A and D are not decayed.

    With `captured` its steps can be part of a CUDA graph: all it counts with is on the GPU, learning rates too.
    """
    matrices, others, kept = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim <= 1 or name.endswith(SCAN_PARAMETERS):
            kept.append(parameter)
        elif options.kind == "muon" and is_matrix(name, parameter):
            matrices.append(parameter)
        else:
            others.append(parameter)
    groups = (
        [{"params": matrices, "orthogonal": True, "weight_decay": options.weight_decay}] if matrices else []
    )
    groups += [
        {"params": others, "weight_decay": options.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    kind, shared = _OPTIMISERS[options.kind], {"betas": options.betas, "eps": options.eps, "foreach": True}
    if not captured:
        return kind(groups, lr=options.lr, **shared)
    rate = torch.tensor(options.lr, device=next(model.parameters()).device)
    optimiser = kind(groups, lr=rate, capturable=True, **shared)
    # The first steps of a shape run outside of a graph, where torch would take the option for a mistake.
    optimiser._warned_capturable_if_run_uncaptured = True
    return optimiser


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every group a learning rate; in place where a CUDA graph reads it."""
    for group in optimiser.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def make_loss(config: LossConfig, device: torch.device) -> DeblurLoss:
    """The configured loss on a device. Raises UnavailableError where a network's weights are absent."""
    network = None
    if config.lpips:
        network = perceptual.lpips_network(config.lpips_backbone, device=str(device), offline=False)[0]
    return DeblurLoss(config, network).to(device)
