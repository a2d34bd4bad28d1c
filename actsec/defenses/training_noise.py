"""Gradient noise in training: Gaussian noise on every gradient, less with every update.

Variance eta / (1 + t)^gamma at update t (Neelakantan et al. 2015, "Adding gradient noise improves learning for very
deep networks", equation 1; they tried eta of 0.01, 0.3 and 1, and gamma 0.55). An aid to optimisation: it touches the
weights' gradients while learning, never the gradient an attacker sees. Noise served to the attacker alone would be
masking and is not offered; noise on inputs is ``noisy_inference``.

Cost: one forward and one backward of the training split an epoch.

Known failures: with Adam a large eta swamps the gradient, since Adam rescales what is left; clean accuracy falls.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import Annotated, ClassVar, Literal

from actsec.defenses._learning import copied, learn, recipe_of, require, split_of
from actsec.training import Recipe
from actsec.types import Fitted, Material, Target


@dataclass(frozen=True, slots=True)
class TrainingNoise:
    """Fine-tuning with annealed gradient noise."""

    eta: Annotated[float, "variance of the noise at the first update"] = 0.01
    gamma: Annotated[float, "how fast the variance falls: eta / (1 + t)^gamma"] = 0.55
    epochs: Annotated[int, "passes over the training split"] = 5
    optimizer: Annotated[Literal["adam", "sgd"], "the update rule"] = "sgd"
    learning_rate: Annotated[float, "the highest learning rate"] = 0.01
    batch_size: Annotated[int, "examples an update"] = 64
    weight_decay: Annotated[float, "L2 penalty"] = 0.0

    needs: ClassVar[Literal["nothing", "calibration", "train"]] = "train"
    claims: ClassVar[str] = "May steady the training of deep networks; it is no defense against adversarial inputs."
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "stability"
    adaptive: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        require(0 < self.eta < inf, "training_noise(eta=...)", self.eta, "a variance above 0 such as 0.01")
        require(0 <= self.gamma < inf, "training_noise(gamma=...)", self.gamma, "0 or a power above it such as 0.55")
        self._recipe(0)

    def wrap(self, target: Target) -> Target:
        """A copy: the structure does not change."""
        return copied(target)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Train with noise. Raises DataError without a training split."""
        split = split_of(material, "train", "training_noise")
        recipe = self._recipe(material.seed)
        numbers = learn(target, split, recipe, material, "training_noise")
        updates = numbers["epochs"] * -(-len(split.y) // self.batch_size)
        noise = {"noise_std_first": recipe.noise_std(0), "noise_std_last": recipe.noise_std(updates - 1)}
        return Fitted(numbers | noise)

    def _recipe(self, seed: int) -> Recipe:
        return replace(recipe_of(self, seed), gradient_noise=self.eta, gradient_noise_decay=self.gamma)
