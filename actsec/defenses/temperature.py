"""Temperature scaling: one number T that divides the logits, so that confidence fits the calibration split.

T minimises the negative log-likelihood of softmax(z / T) on held-out examples (Guo, Pleiss, Sun & Weinberger 2017,
section 4.2), searched in log T, in which it is unimodal, in float64 within [0.01, 100]. Division by a positive number
keeps the order of the logits, so no label changes, clean or adversarial: this mends calibration and nothing else. With
a decision threshold t the logits are scaled about the threshold, z -> (z - s) / T + s with s = log(t / (1 - t)), since
plain division would move the decision. Two logits within a few float32 roundings of each other may become a tie.

Cost: one forward of the calibration split; of a stochastic target, whose mean probability is fitted (the likelihood may
then have more than one minimum), 20 draws or as many answers of a smoothed one as hold 20 noisy copies.

Known failures: a calibration split without a mistake does not determine T, which stays 1 then (reported); confidence
under attack is not calibrated by a T fitted on clean examples; where the model is calibrated already, T fits noise.
"""

from __future__ import annotations

import math
import operator
from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx, nn

from actsec.activations.following import Stands
from actsec.defenses._heads import finite_decisions, nll_of, pivot_of
from actsec.defenses._learning import split_of
from actsec.errors import ModelError
from actsec.types import Fitted, Material, Target, read_head

LOWEST, HIGHEST = 0.01, 100.0


class Tempered(Stands):
    """A model whose logits are divided by ``temperature``, about ``pivot`` where a threshold decides.

    Returns float32 logits of the head's own form, (n, classes), (n, 1) or (n,). Its activations keep their names.
    """

    temperature: Tensor
    keeps_decision = True

    def __init__(self, model: nn.Module, output: str | None, pivot: float) -> None:
        super().__init__()
        self.model, self.stands = model, nn.ModuleDict()
        self.output, self.pivot = output, pivot
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        z = read_head(self.model(x), self.output).float()
        if self.pivot == 0:
            return z / self.temperature
        about = z.new_tensor([0.0, self.pivot] if z.dim() == 2 and z.shape[1] == 2 else self.pivot)
        return (z - about) / self.temperature + about

    def in_torch(self, inner: nn.Module) -> nn.Module:
        """The same around ``inner`` without a class of actsec's. Raises ModelError where one division cannot say it."""
        if self.pivot or self.output is not None:
            what = "a threshold" if self.pivot else f"the field {self.output!r} of the output"
            raise ModelError(f"a temperature about {what} is no single division", "Export it: --export model.pt2.")
        graph = fx.Graph()
        z = graph.call_module("model", (graph.placeholder("x"),))
        graph.output(graph.call_function(operator.truediv, (z, graph.get_attr("temperature"))))
        root = nn.Module()
        root.model = inner
        root.register_buffer("temperature", self.temperature.detach().clone())
        return fx.GraphModule(root, graph, "Tempered")


@dataclass(frozen=True, slots=True)
class Temperature:
    """Temperature scaling fitted on the calibration split."""

    needs: ClassVar[Literal["nothing", "calibration", "train"]] = "calibration"
    claims: ClassVar[str] = (
        "Mends confidence on data like the calibration split and changes no label, so it adds no robustness."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "calibration"
    adaptive: ClassVar[tuple[str, ...]] = ()

    def wrap(self, target: Target) -> Target:
        """The target with a temperature of 1 after its logits."""
        model = Tempered(deepcopy(target.model), target.output, pivot_of(target)).to(target.device)
        model.training = model.stands.training = target.model.training
        return target.having(model=model, output=None)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Fit T on the calibration split. Raises DataError without one, ModelError when logits are not finite."""
        if not isinstance(target.model, Tempered):
            raise ModelError("temperature is fitted to a model it has not wrapped", "Call wrap(target) first.")
        split = split_of(material, "calibration", "temperature")
        model = target.model
        model.temperature.fill_(1.0)
        logits, y = finite_decisions(target, split.x, material.seed), split.y.cpu()
        found = best_temperature(logits, y, model.pivot)
        # Without a mistake the likelihood rises all the way down, to a softmax that is 0 or 1 in float32: a mask.
        faultless = found == LOWEST and bool((logits.argmax(-1) == y).all())
        found = 1.0 if faultless else found
        model.temperature.fill_(found)
        kept = float(model.temperature)
        at_bound = found in (LOWEST, HIGHEST)
        numbers = {
            "temperature": kept,
            "at_bound": at_bound,
            "determined": not (at_bound or faultless),
            "nll_before": nll(logits, y, 1.0, model.pivot),
            "nll_after": nll(logits, y, kept, model.pivot),
            "examples": len(y),
            "forwards": logits.shape[0] * target.draws * len(y),
            "backwards": 0,
        }
        notes = []
        if faultless:
            notes.append("T stays 1: a calibration split without a mistake does not determine it.")
        if at_bound:
            notes.append(f"T stopped at its bound {found:g}: the calibration split does not determine it.")
        if model.pivot:
            notes.append(f"Scaled about the threshold {target.threshold:g}, so that no decision changes.")
        return Fitted(numbers, tuple(notes))


def nll(logits: Tensor, y: Tensor, temperature: float, pivot: float = 0.0) -> float:
    """Mean negative log-likelihood in nats of labels y (n,) at a temperature, under the mean probability over draws.

    logits (draws, n, classes) float64 are decision logits: the second of two is already less by ``pivot``.
    """
    scaled = logits / temperature
    if pivot:
        scaled = scaled + logits.new_tensor([0.0, pivot])
    return float(nll_of(scaled, y))


def best_temperature(logits: Tensor, y: Tensor, pivot: float = 0.0) -> float:
    """The T in [LOWEST, HIGHEST] with the least ``nll``: the bound itself where it lies there, 1 if T is all one."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda log_t: nll(logits, y, math.exp(log_t), pivot),
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-8, "maxiter": 500},
    )
    return min((1.0, LOWEST, HIGHEST, math.exp(float(found.x))), key=lambda t: nll(logits, y, t, pivot))
