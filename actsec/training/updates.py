"""The two update rules, written out: torch.optim's classes import torch's compiler, 150 MB and seconds in every worker.

Equal to torch.optim.Adam and torch.optim.SGD with their defaults, to float32 rounding; a test holds them side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Adam:
    """Kingma & Ba 2015, algorithm 1, with an L2 penalty added to the gradient."""

    beta1, beta2, tiny = 0.9, 0.999, 1e-8

    def __init__(self, parameters: Sequence[nn.Parameter], weight_decay: float | Sequence[float]) -> None:
        self.parameters, self.decays = parameters, _each(weight_decay, parameters)
        # Steps are counted per parameter, as one without a gradient takes none.
        self.steps = [0] * len(parameters)
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on beside weights and gradients."""
        moments = {"first": self.first, "second": self.second}
        return {"steps": torch.tensor(self.steps)} | _listed(moments)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave."""
        self.steps = state["steps"].tolist()
        for i in range(len(self.parameters)):
            self.first[i].copy_(state[f"first.{i}"])
            self.second[i].copy_(state[f"second.{i}"])

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update every parameter that has a gradient."""
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            self.steps[i] += 1
            gradient = _decayed(parameter, self.decays[i])
            self.first[i].lerp_(gradient, 1 - self.beta1)
            self.second[i].mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
            first_bias, second_bias = 1 - self.beta1 ** self.steps[i], 1 - self.beta2 ** self.steps[i]
            scale = (self.second[i].sqrt() / second_bias**0.5).add_(self.tiny)
            parameter.addcdiv_(self.first[i], scale, value=-rate / first_bias)


class SGD:
    """Gradient descent with heavy-ball momentum and an L2 penalty added to the gradient."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], momentum: float, weight_decay: float | Sequence[float]
    ) -> None:
        self.parameters, self.momentum, self.decays = parameters, momentum, _each(weight_decay, parameters)
        self.velocity: list[Tensor | None] = [None] * len(parameters)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on beside weights and gradients."""
        return _listed({"velocity": self.velocity})

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave."""
        for i, parameter in enumerate(self.parameters):
            found = state.get(f"velocity.{i}")
            self.velocity[i] = None if found is None else torch.empty_like(parameter).copy_(found).detach()

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update every parameter that has a gradient."""
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            gradient = _decayed(parameter, self.decays[i])
            before = self.velocity[i]
            moved = gradient.clone() if before is None else before.mul_(self.momentum).add_(gradient)
            self.velocity[i] = moved
            parameter.add_(moved, alpha=-rate)


def _listed(lists: Mapping[str, Sequence[Tensor | None]]) -> dict[str, Tensor]:
    return {f"{key}.{i}": value for key, values in lists.items() for i, value in enumerate(values) if value is not None}


def _each(weight_decay: float | Sequence[float], parameters: Sequence[nn.Parameter]) -> Sequence[float]:
    """A penalty for each parameter."""
    return [weight_decay] * len(parameters) if isinstance(weight_decay, (int, float)) else weight_decay


def _decayed(parameter: nn.Parameter, weight_decay: float) -> Tensor:
    gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
    return gradient.add(parameter, alpha=weight_decay) if weight_decay else gradient
