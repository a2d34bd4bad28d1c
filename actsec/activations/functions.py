"""The catalogue's activations in torch: a module for each, and those that torch does not have.

A function of ours is one torch call to a TorchFunctionMode, as torch's own activations are: it can be found, watched
and replaced by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function_unary

from actsec.activations.catalogue import Activation
from actsec.errors import ModelError


def kwta(z: Tensor, fraction: float) -> Tensor:
    """k-winners-take-all (Xiao et al. 2020, eq. 3) per example over all units of the call; the rest become 0.

    k = max(1, round(fraction * units)). Units equal to the k-th largest all stay, so that ties do not depend on order.
    ``z`` is (n, ...), or (units,) for one example.
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


def swish(z: Tensor, beta: float = 1.0) -> Tensor:
    """z * sigmoid(beta * z) (Ramachandran et al. 2017), any shape."""
    if has_torch_function_unary(z):
        return handle_torch_function(swish, (z,), z, beta=beta)
    return z * torch.sigmoid(beta * z)


def pswish(z: Tensor, beta: Tensor) -> Tensor:
    """swish with a learned beta (1,): Ramachandran et al. 2017, section 5; the PSiLU of Dai et al. 2021."""
    if has_torch_function_unary(z):
        return handle_torch_function(pswish, (z,), z, beta)
    return z * torch.sigmoid(beta * z)


def step(z: Tensor, window: float = 1.0) -> Tensor:
    """1 where z >= 0, else 0; NaN where z is NaN. Its gradient is the straight-through estimate.

    The function's own slope is 0 wherever it has one. Backward passes the gradient on where |z| <= window (Bengio et
    al. 2013; with the window, Hubara et al. 2016, eq. 4), so that networks of steps can be trained and attacked.
    """
    if has_torch_function_unary(z):
        return handle_torch_function(step, (z,), z, window=window)
    passing = torch.where(z.abs() > window, torch.zeros_like(z), z)  # not a clamp: torch versions differ at its ends
    return (z >= 0).to(z.dtype) + (passing - passing.detach())


def maxout(z: Tensor, pieces: int = 2) -> Tensor:
    """The largest of each group of neighbouring channels (Goodfellow et al. 2013): (n, c, ...) to (n, c / pieces, ...).

    One example may be (c,). Of equals, one gets the gradient. Raises ModelError when the channels do not divide.
    """
    if has_torch_function_unary(z):
        return handle_torch_function(maxout, (z,), z, pieces=pieces)
    at = min(1, z.dim() - 1)
    if z.shape[at] % pieces:
        raise ModelError(
            f"maxout(pieces={pieces}) cannot divide {z.shape[at]} channels",
            f"Make the layer before it a multiple of {pieces} wide.",
        )
    groups = z.reshape(*z.shape[:at], -1, pieces, *z.shape[at + 1 :])
    return groups.max(at + 1).values


class Swish(nn.Module):
    """swish as a module; see ``swish``."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, z: Tensor) -> Tensor:
        return swish(z, self.beta)

    def extra_repr(self) -> str:
        return f"beta={self.beta}"


class PSwish(nn.Module):
    """swish with a learned beta; see ``pswish``."""

    def __init__(self, init: float = 1.0) -> None:
        super().__init__()
        self.init = init
        self.beta = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.constant_(self.beta, self.init)

    def forward(self, z: Tensor) -> Tensor:
        return pswish(z, self.beta)


class Step(nn.Module):
    """The step as a module; see ``step``."""

    def __init__(self, window: float = 1.0) -> None:
        super().__init__()
        self.window = window

    def forward(self, z: Tensor) -> Tensor:
        return step(z, self.window)

    def extra_repr(self) -> str:
        return f"window={self.window}"


class Maxout(nn.Module):
    """maxout as a module; see ``maxout``."""

    def __init__(self, pieces: int = 2) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, z: Tensor) -> Tensor:
        return maxout(z, self.pieces)

    def extra_repr(self) -> str:
        return f"pieces={self.pieces}"


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


OWN = (Identity, KWTA, Maxout, PSwish, Step, Swish)
"""The modules of ours that are one activation call each."""

_MODULES: dict[str, Callable[[Any], nn.Module]] = {
    "relu": lambda _: nn.ReLU(),
    "leaky_relu": lambda o: nn.LeakyReLU(o.slope),
    "prelu": lambda o: nn.PReLU(init=o.init),
    "elu": lambda o: nn.ELU(o.alpha),
    "celu": lambda o: nn.CELU(o.alpha),
    "selu": lambda _: nn.SELU(),
    "gelu": lambda o: nn.GELU(o.approximate),
    "silu": lambda _: nn.SiLU(),
    "swish": lambda o: Swish(o.beta),
    "pswish": lambda o: PSwish(o.init),
    "mish": lambda _: nn.Mish(),
    "hardswish": lambda _: nn.Hardswish(),
    "tanh": lambda _: nn.Tanh(),
    "hardtanh": lambda o: nn.Hardtanh(o.lower, o.upper),
    "sigmoid": lambda _: nn.Sigmoid(),
    "hardsigmoid": lambda _: nn.Hardsigmoid(),
    "softplus": lambda o: nn.Softplus(o.beta),
    "relu6": lambda _: nn.ReLU6(),
    "step": lambda o: Step(o.window),
    "identity": lambda _: Identity(),
    "kwta": lambda o: KWTA(o.fraction),
    "maxout": lambda o: Maxout(o.pieces),
}


def module(activation: Activation) -> nn.Module:
    """A new module computing the activation out of place."""
    return _MODULES[activation.name](activation.options)


def evaluate(activation: Activation, z: Tensor) -> Tensor:
    """f(z) on z's device and dtype, learnable ones at ``init``."""
    result: Tensor = module(activation).to(device=z.device, dtype=z.dtype).requires_grad_(False)(z)
    return result
