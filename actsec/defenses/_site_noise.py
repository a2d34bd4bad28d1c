"""Noise on the outputs of activation calls, site by site."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from actsec.activations.calls import Activating
from actsec.activations.standing import Standing, chosen

TINY = 1e-12


class Jitter(nn.Module):
    """y -> y + alpha * s * n with n ~ N(0, 1), s the standard deviation of each row's own values of y (m, *units).

    s stays on the graph and belongs to the row alone, so that no row depends on its batch. alpha is a parameter where
    it is learned, and otherwise a constant outside the state.
    """

    alpha: Tensor

    def __init__(self, alpha: float, *, learned: bool) -> None:
        super().__init__()
        if learned:
            self.alpha = nn.Parameter(torch.tensor(alpha))
        else:
            self.register_buffer("alpha", torch.tensor(alpha), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        spread = (y.flatten(1).var(1, unbiased=False) + TINY).sqrt()
        return y + self.alpha * spread.view(-1, *(1,) * (y.dim() - 1)) * torch.randn_like(y)


class Jittered(Standing):
    """A model with noise added to the output of some of its activation calls, in train and eval mode alike.

    Draws come from torch's global random state.
    """

    def answer(self, stand: nn.Module, call: Activating) -> Tensor:
        result: Tensor = stand(call.compute(call.source()))
        return result


def jittered(model: nn.Module, example: Tensor, sites: str | Sequence[str], alpha: float, *, learned: bool) -> Jittered:
    """A deep copy of the model with noise at the activation calls whose names match a glob; the original is left alone.

    example (n, ...) is one valid batch. Gates, the output and calls that never see the input get none. Raises
    UnknownName for a glob that matches no call, ModelError for a model without any.
    """
    picked = chosen(model, example, sites)
    noises = {name: Jitter(alpha, learned=learned).to(example.device) for name in picked.names}
    made = Jittered(copy.deepcopy(model), noises, picked)
    made.resting_as(model)
    return made


def alphas(model: nn.Module) -> dict[str, float]:
    """The scale of the noise at each site of a jittered model."""
    noises = {key: noise for key, noise in model.named_modules() if isinstance(noise, Jitter)}
    return {key.removeprefix("stands.").replace("/", "."): float(noise.alpha.detach()) for key, noise in noises.items()}
