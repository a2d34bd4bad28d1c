"""The catalogue's activations in torch: a module for each, and the two that torch does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from actsec.activations.catalogue import Activation


def kwta(z: Tensor, fraction: float) -> Tensor:
    """k-winners-take-all (Xiao et al. 2020, eq. 3) per example over all units of the call; the rest become 0.

    k = max(1, round(fraction * units)). Units equal to the k-th largest all stay, so that ties do not depend on order.
    ``z`` is (n, ...), or (units,) for one example. A TorchFunctionMode sees one call, as with torch's own activations.
    """
    if has_torch_function_unary(z):
        return handle_torch_function(kwta, (z,), z, fraction=fraction)
    rows = z.flatten(1) if z.dim() > 1 else z.reshape(1, -1)
    winners = max(1, round(fraction * rows.shape[1]))
    bar = rows.detach().topk(winners, dim=1).values[:, -1:]
    return torch.where(rows >= bar, rows, torch.zeros_like(rows)).reshape(z.shape)


def identity(z: Tensor) -> Tensor:
    """z itself, as a call that can be found, watched and replaced: what a network without activations computes."""
    if has_torch_function_unary(z):
        return handle_torch_function(identity, (z,), z)
    return z


class KWTA(nn.Module):
    """k-winners-take-all as a module; see ``kwta``."""

    def __init__(self, fraction: float = 0.1) -> None:
        super().__init__()
        self.fraction = fraction

    def forward(self, z: Tensor) -> Tensor:
        return kwta(z, self.fraction)

    def extra_repr(self) -> str:
        return f"fraction={self.fraction}"


class Identity(nn.Module):
    """The identity as an activation. torch's nn.Identity marks an absent layer, so it is not a site."""

    def forward(self, z: Tensor) -> Tensor:
        return identity(z)


_MODULES: dict[str, Callable[[Any], nn.Module]] = {
    "relu": lambda _: nn.ReLU(),
    "leaky_relu": lambda o: nn.LeakyReLU(o.slope),
    "prelu": lambda o: nn.PReLU(init=o.init),
    "elu": lambda o: nn.ELU(o.alpha),
    "celu": lambda o: nn.CELU(o.alpha),
    "selu": lambda _: nn.SELU(),
    "gelu": lambda o: nn.GELU(o.approximate),
    "silu": lambda _: nn.SiLU(),
    "mish": lambda _: nn.Mish(),
    "hardswish": lambda _: nn.Hardswish(),
    "tanh": lambda _: nn.Tanh(),
    "hardtanh": lambda o: nn.Hardtanh(o.lower, o.upper),
    "sigmoid": lambda _: nn.Sigmoid(),
    "hardsigmoid": lambda _: nn.Hardsigmoid(),
    "softplus": lambda o: nn.Softplus(o.beta),
    "relu6": lambda _: nn.ReLU6(),
    "identity": lambda _: Identity(),
    "kwta": lambda o: KWTA(o.fraction),
}


def module(activation: Activation) -> nn.Module:
    """A new module computing the activation out of place."""
    return _MODULES[activation.name](activation.options)


def evaluate(activation: Activation, z: Tensor) -> Tensor:
    """f(z) on z's device and dtype."""
    result: Tensor = module(activation).to(device=z.device, dtype=z.dtype).requires_grad_(False)(z)
    return result
