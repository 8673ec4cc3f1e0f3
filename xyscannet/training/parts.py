"""A run's optimiser and loss, made from its configuration."""

from __future__ import annotations

import torch
from torch import nn

from xyscannet.losses import DeblurLoss, LossConfig
from xyscannet.metrics import perceptual
from xyscannet.training.config import OptimiserConfig
from xyscannet.training.muon import Muon, is_matrix


def make_optimiser(options: OptimiserConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Adam, AdamW or Muon; vectors (norms, biases, D) are not decayed."""
    if options.kind == "muon":
        return _muon(options, model)
    kind = torch.optim.AdamW if options.kind == "adamw" else torch.optim.Adam
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return kind(groups, lr=options.lr, betas=options.betas, eps=options.eps, foreach=True)


def _muon(options: OptimiserConfig, model: nn.Module) -> Muon:
    matrices, tables, vectors = [], [], []
    for name, parameter in model.named_parameters():
        chosen = vectors if parameter.ndim <= 1 else matrices if is_matrix(name, parameter) else tables
        chosen.append(parameter)
    groups = [
        {"params": matrices, "orthogonal": True, "weight_decay": options.weight_decay},
        {"params": tables, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return Muon(groups, lr=options.lr, betas=options.betas, eps=options.eps, foreach=True)


def make_loss(config: LossConfig, device: torch.device) -> DeblurLoss:
    """The configured loss on a device. Raises UnavailableError where a network's weights are absent."""
    network = None
    if config.lpips:
        network = perceptual.lpips_network(config.lpips_backbone, device=str(device), offline=False)[0]
    return DeblurLoss(config, network).to(device)
