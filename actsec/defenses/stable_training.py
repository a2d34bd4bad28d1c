"""Stable training: what keeps deep networks trainable, together or one at a time; no defense against an adversary.

A lower learning rate, dropout of hidden units (Srivastava et al. 2014), clipping of the whole gradient's 2-norm
(Pascanu et al. 2013) and a penalty on the logits' mean square. Each answers a trouble of optimisation: units that die
at high rates, co-adapted units, exploding gradients, outputs without bound. What they mend is the share of dead units
and the ratio of gradients between the first and the last layer; that is what they are judged by. 0 or none switches one
off. Dropout acts on the inputs of linear layers other than the first layer with weights, while training only.

Cost: one forward and one backward of the training split an epoch.

Known failures: fine-tuning at a low rate revives few dead units, since they have no gradient: use start=scratch;
clipping hides a loss that diverges; dropout shifts the statistics of batch norm behind it (Li et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from actsec.defenses._learning import copied, learn, recipe_of, restarted, seed_of, split_of
from actsec.types import Fitted, Material, Target


@dataclass(frozen=True, slots=True)
class StableTraining:
    """Training with a low rate, dropout, clipped gradients and bounded logits."""

    learning_rate: Annotated[float, "the highest learning rate"] = 1e-3
    dropout: Annotated[float, "share of the hidden units before linear layers dropped in training"] = 0.2
    clip_norm: Annotated[float | None, "largest 2-norm of the whole gradient"] = 5.0
    logit_penalty: Annotated[float, "beta: what a unit of the logits' mean square adds to the loss"] = 0.0
    epochs: Annotated[int, "passes over the training split"] = 5
    start: Annotated[Literal["given", "scratch"], "the weights to begin with"] = "given"
    optimizer: Annotated[Literal["adam", "sgd"], "the update rule"] = "adam"
    batch_size: Annotated[int, "examples an update"] = 64
    weight_decay: Annotated[float, "L2 penalty"] = 0.0

    needs: ClassVar[Literal["nothing", "calibration", "train"]] = "train"
    claims: ClassVar[str] = (
        "Keeps units alive and gradients in range while a network learns; it is no defense against adversarial inputs."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "stability"
    adaptive: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        recipe_of(self, 0)

    def wrap(self, target: Target) -> Target:
        """A copy: the structure does not change."""
        return copied(target)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Train in place. Raises DataError without a training split, ModelError where dropout has nowhere to act."""
        split = split_of(material, "train", "stable_training")
        if self.start == "scratch":
            restarted(target.model, seed_of(material.seed, "scratch"))
        numbers = learn(target, split, recipe_of(self, material.seed), material, "stable_training")
        return Fitted(numbers | {"start": self.start})
