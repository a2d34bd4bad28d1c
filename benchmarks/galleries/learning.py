"""Trainings that the one training loop has no option for: adversaries inside it, and soft labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actsec.training import Perturb


def pgd(eps: float, norm: str = "linf", steps: int = 5) -> Perturb:
    """Projected gradient ascent on the cross-entropy inside the ball and [0, 1] (Madry et al. 2017)."""

    def perturb(model: nn.Module, x: Tensor, y: Tensor, *_: object) -> Tensor:
        at = x.detach()
        for _ in range(steps):
            leaf = at.clone().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
            if norm == "linf":
                delta = (at + 2.5 * eps / steps * slope.sign() - x).clamp(-eps, eps)
            else:
                delta = at + 2.5 * eps / steps * slope / _length(slope) - x
                delta = delta * (eps / _length(delta)).clamp_max(1)
            at = (x + delta).clamp(0, 1).detach()
        return at

    return perturb


def noise(std: float) -> Perturb:
    """Gaussian noise on every training image."""

    def perturb(_model: nn.Module, x: Tensor, *_: object) -> Tensor:
        return x + std * torch.randn_like(x)

    return perturb


def _length(delta: Tensor) -> Tensor:
    return delta.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *[1] * (delta.dim() - 1))


def fit_soft(model: nn.Module, x: Tensor, soft: Tensor, epochs: int, seed: int, rate: float = 2e-3) -> None:
    """Train in place on probabilities soft (n, classes) by cross-entropy, with Adam and a cosine schedule."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=order).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), soft[rows]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    for parameter in model.parameters():
        parameter.grad = None


class Cooled(nn.Module):
    """A network whose logits are divided by a temperature."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits / self.temperature


def soft_labels(model: nn.Module, x: Tensor) -> Tensor:
    """The probabilities a model gives (n, classes)."""
    with torch.no_grad():
        return torch.cat([model(part).softmax(1) for part in x.split(500)])
