"""Confidence penalty: training that charges for being sure, by the entropy of the output or the size of the logits.

of=entropy: CE(f(x), y) - beta * H(softmax(z)), H in nats (Pereyra et al. 2017, section 3). of=logits: CE(f(x), y) +
beta * mean of z^2 over rows and classes ("logit squeezing", Kannan, Kurakin & Goodfellow 2018; theirs is the norm of z,
so their weights are not ours). By fine-tuning the given weights, or from scratch.

Labels change, and accuracy under attack can rise; logit squeezing was proposed as a defense and broken by attacks with
more restarts and steps (Mosbach et al. 2018). So it is credited with calibration only, and must face attacks that need
no cross-entropy.

Cost: one forward and one backward of the training split an epoch.

Known failures: a beta too large makes every answer the same guess; a model that was calibrated becomes underconfident;
far from the data the logits of unbounded activations grow as before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from actsec.defenses._learning import copied, learn, recipe_of, require, restarted, seed_of, split_of
from actsec.training import Recipe
from actsec.types import Fitted, Material, Target


@dataclass(frozen=True, slots=True)
class ConfidencePenalty:
    """Training that charges for confidence."""

    beta: Annotated[float, "weight of the penalty beside the cross-entropy"] = 0.1
    of: Annotated[Literal["entropy", "logits"], "what is charged: low entropy, or the logits' mean square"] = "entropy"
    epochs: Annotated[int, "passes over the training split"] = 5
    start: Annotated[Literal["given", "scratch"], "the weights to begin with"] = "given"
    optimizer: Annotated[Literal["adam", "sgd"], "the update rule"] = "adam"
    learning_rate: Annotated[float, "the highest learning rate"] = 1e-3
    batch_size: Annotated[int, "examples an update"] = 64
    weight_decay: Annotated[float, "L2 penalty"] = 0.0

    needs: ClassVar[Literal["nothing", "calibration", "train"]] = "train"
    claims: ClassVar[str] = (
        "Lowers confidence by training and so changes labels too; what it seems to gain under attack is partly hidden "
        "gradients, and is not credited."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "calibration"
    adaptive: ClassVar[tuple[str, ...]] = ("pgd(steps=50, restarts=2, loss=margin)", "square")

    def __post_init__(self) -> None:
        require(0 < self.beta < float("inf"), "confidence_penalty(beta=...)", self.beta, "a weight above 0 such as 0.1")
        self._recipe(0)

    def wrap(self, target: Target) -> Target:
        """A copy: the structure does not change."""
        return copied(target)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Train in place. Raises DataError without a training split, ModelError where start=scratch is impossible."""
        split = split_of(material, "train", "confidence_penalty")
        if self.start == "scratch":
            restarted(target.model, seed_of(material.seed, "scratch"))
        numbers = learn(target, split, self._recipe(material.seed), material, "confidence_penalty")
        return Fitted(numbers | {"start": self.start})

    def _recipe(self, seed: int) -> Recipe:
        recipe = recipe_of(self, seed)
        if self.of == "entropy":
            return replace(recipe, confidence_penalty=self.beta)
        return replace(recipe, logit_penalty=self.beta)
