"""Label smoothing: learn labels of 1 - epsilon, the rest spread evenly over all classes.

CE(softmax(z), (1 - epsilon) * one_hot(y) + epsilon / classes) (Szegedy et al. 2016, section 7): the logits stop growing
once they are apart enough, so the model is less sure of everything. By fine-tuning the given weights, or from scratch.

Labels change, some for the better and some for the worse, and accuracy under attack can rise. Part of that rise is
masking: attacks by another loss or crafted on another model take it back (Fu et al. 2020, "Label smoothing and
adversarial robustness"). So it is credited with calibration only, and must face attacks that need no cross-entropy.

Cost: one forward and one backward of the training split an epoch.

Known failures: a model that was calibrated becomes underconfident; confidence under attack and on nonsense is not
mended; the smaller loss says nothing about robustness.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from actsec.defenses._learning import copied, learn, recipe_of, require, restarted, seed_of, split_of
from actsec.training import Recipe
from actsec.types import Fitted, Material, Target


@dataclass(frozen=True, slots=True)
class LabelSmoothing:
    """Training with softened labels."""

    epsilon: Annotated[float, "share of a label spread evenly over all classes"] = 0.1
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
        require(0 < self.epsilon < 1, "label_smoothing(epsilon=...)", self.epsilon, "a share above 0 and below 1")
        self._recipe(0)

    def wrap(self, target: Target) -> Target:
        """A copy: the structure does not change."""
        return copied(target)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Train in place. Raises DataError without a training split, ModelError where start=scratch is impossible."""
        split = split_of(material, "train", "label_smoothing")
        if self.start == "scratch":
            restarted(target.model, seed_of(material.seed, "scratch"))
        numbers = learn(target, split, self._recipe(material.seed), material, "label_smoothing")
        return Fitted(numbers | {"start": self.start})

    def _recipe(self, seed: int) -> Recipe:
        return replace(recipe_of(self, seed), label_smoothing=self.epsilon)
