"""Vector scaling: a weight and a bias for each class after the logits, so that confidence fits the calibration split.

z -> w * z + b (Guo, Pleiss, Sun & Weinberger 2017, section 4.2: matrix scaling with a diagonal matrix), by L-BFGS in
float64: the least sum over held-out examples of the negative log-likelihood, plus half the square of each log w and b.
That is a standard normal prior on each, the weaker the more examples there are. Without it a split that w and b can
separate drives them to where the softmax is 0 or 1 in float32 and the cross-entropy's gradients are exactly 0: a mask
that nobody had meant to put on. Weights are positive, so that evidence for a class never counts against it; the biases
sum to 0 at the optimum.

Unlike a temperature this can change labels, clean and attacked. Fitting counts how many labels of the calibration split
it changed, how many of these became right and how many wrong, and says so. A threshold stays where it is. One logit z a
row is treated as [0, z].

Cost: one forward of the calibration split; of a stochastic target, whose mean probability is fitted (the likelihood may
then have more than one minimum), 20 draws or as many answers of a smoothed one as hold 20 noisy copies.

Known failures: twice as many parameters as classes fit a small split better than new data; confidence under attack is
not calibrated by a fit to clean examples.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from actsec.activations.following import Stands
from actsec.defenses._heads import Labels, columns, labels_of, logits_of, nll_of
from actsec.defenses._learning import split_of
from actsec.errors import ModelError
from actsec.types import Fitted, Material, Target


class VectorScaled(Stands):
    """A model whose logits (n, classes) are multiplied by ``weight`` and shifted by ``bias``, both (classes,)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, model: nn.Module, output: str | None, classes: int) -> None:
        super().__init__()
        self.model, self.stands, self.output = model, nn.ModuleDict(), output
        self.register_buffer("weight", torch.ones(classes))
        self.register_buffer("bias", torch.zeros(classes))

    def forward(self, x: Tensor) -> Tensor:
        return columns(self.model(x), self.output) * self.weight + self.bias


@dataclass(frozen=True, slots=True)
class VectorScaling:
    """Vector scaling fitted on the calibration split."""

    needs: ClassVar[Literal["nothing", "calibration", "train"]] = "calibration"
    claims: ClassVar[str] = (
        "Mends confidence class by class on data like the calibration split and can change labels near a boundary; it "
        "adds no robustness."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "calibration"
    adaptive: ClassVar[tuple[str, ...]] = ()

    def wrap(self, target: Target) -> Target:
        """The target with weights of 1 and biases of 0 after its logits."""
        model = VectorScaled(deepcopy(target.model), target.output, len(target.classes)).to(target.device)
        model.training = model.stands.training = target.model.training
        return target.having(model=model, output=None)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Fit w and b. Raises DataError without a calibration split, ModelError when logits are not finite."""
        model = target.model
        if not isinstance(model, VectorScaled):
            raise ModelError("vector_scaling is fitted to a model it has not wrapped", "Call wrap(target) first.")
        split = split_of(material, "calibration", "vector_scaling")
        model.weight.fill_(1.0)
        model.bias.fill_(0.0)
        logits, y = logits_of(target, split.x, material.seed), split.y.cpu()
        weight, bias = best_vectors(logits, y)
        before = labels_of(target, logits)
        model.weight.copy_(weight)
        model.bias.copy_(bias)
        kept = logits * model.weight.double().cpu() + model.bias.double().cpu()
        changed = Labels(y, before, labels_of(target, kept))
        numbers = {
            "weight": [float(value) for value in model.weight],
            "bias": [float(value) for value in model.bias],
            "nll_before": float(nll_of(logits, y)),
            "nll_after": float(nll_of(kept, y)),
            **changed.numbers,
            "examples": len(y),
            "forwards": logits.shape[0] * target.draws * len(y),
            "backwards": 0,
        }
        return Fitted(numbers, (changed.said,))


def best_vectors(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The w and b (classes,), float64, with the least ``nll_of`` of w * logits + b and the prior."""
    from scipy.optimize import minimize

    classes = logits.shape[-1]

    def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        at = torch.from_numpy(point).requires_grad_(True)
        with torch.enable_grad():
            value = nll_of(logits * at[:classes].exp() + at[classes:], y) + (at * at).sum() / (2 * len(y))
        (slope,) = torch.autograd.grad(value, at)
        return float(value.detach()), slope.numpy()

    options = {"maxiter": 1000, "maxfun": 4000, "ftol": 1e-15, "gtol": 1e-10}
    found = minimize(objective, np.zeros(2 * classes), jac=True, method="L-BFGS-B", options=options).x
    return torch.from_numpy(found[:classes]).exp(), torch.from_numpy(found[classes:])
