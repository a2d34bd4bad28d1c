"""Adversarial training: learn from the examples an attack finds against the weights of that moment.

min over weights of E[ max over |d| <= eps of J(x + d, y) ] (Madry et al. 2017, equation 2.1), the inner maximum by the
attack ``inner``, with fresh random starts every epoch. ``mix`` below 1 leaves that share of the rows perturbed and the
others clean, drawn anew every epoch (Goodfellow et al. 2014, section 6). The attack runs in eval mode (running
batch-norm statistics), the update in train mode. Starts from the given weights, or from scratch.

A share of the rows, ``validate``, is held out: after every epoch accuracy under 10 steps of PGD is measured on it, and
the weights of the best epoch are kept, the later of equals; ``patience`` ends the training when it has not risen for so
many epochs. Adversarial training overfits, and this is most of the mend (Rice, Wong & Kolter 2020). An audit that is
interrupted goes on from the last epoch, to the same bits.

Cost an epoch: what ``inner`` costs on the training split, and one forward and one backward of it; 10 of both for each
row held out.

Known failures: robustness holds for the norm and eps trained on, and falls for others; clean accuracy falls; a hundred
rows held out tell epochs apart by no better than 0.1; weight decay alone can move the outcome by several points (Pang
et al. 2020), so compare only runs with equal recipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from actsec.defenses._holdout import VALIDATION, checked_validation, learn_robustly
from actsec.defenses._learning import copied, partly, recipe_of, require, restarted, seed_of
from actsec.draws import Draws
from actsec.spec import Spec
from actsec.training import Memory
from actsec.training.recipe import Schedule
from actsec.types import Fitted, Material, Norm, Target, Threat


@dataclass(frozen=True, slots=True)
class AdversarialTraining:
    """Training on the examples that an attack finds."""

    eps: Annotated[float, "radius trained against, in input units"]
    norm: Annotated[Norm, "norm trained against"] = "linf"
    inner: Annotated[Spec, "the attack that makes the examples"] = Spec("pgd", (("steps", 7),))  # noqa: RUF009  # immutable
    epochs: Annotated[int, "passes over the training split"] = 15
    mix: Annotated[float, "share of the examples that are perturbed"] = 1.0
    validate: Annotated[float, "share of the rows held out to choose the epoch by; 0 keeps the last epoch"] = 0.1
    patience: Annotated[int | None, "epochs without a rise on the rows held out before training ends"] = None
    start: Annotated[Literal["given", "scratch"], "the weights to begin with"] = "given"
    optimizer: Annotated[Literal["adam", "sgd"], "the update rule"] = "adam"
    learning_rate: Annotated[float, "the highest learning rate"] = 5e-3
    schedule: Annotated[Schedule, "how the rate goes: up and down, down, or constant"] = "one_cycle"
    batch_size: Annotated[int, "examples an update"] = 64
    weight_decay: Annotated[float, "L2 penalty"] = 0.0

    needs: ClassVar[Literal["nothing", "calibration", "train"]] = "train"
    claims: ClassVar[str] = (
        "Raises accuracy under attacks within the norm and eps it was trained against, at some cost in clean accuracy; "
        "it certifies nothing and promises nothing for other threats."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "robustness"
    adaptive: ClassVar[tuple[str, ...]] = ("pgd(steps=50, restarts=2, loss=margin)",)

    def __post_init__(self) -> None:
        Threat(self.norm, self.eps)
        require(0 < self.mix <= 1, "adversarial_training(mix=...)", self.mix, "a share above 0 and at most 1")
        checked_validation("adversarial_training", self.validate, self.patience)
        recipe_of(self, 0)

    def wrap(self, target: Target) -> Target:
        """A copy: the structure does not change."""
        return copied(target)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Train in place. Raises DataError without a training split, ModelError where start=scratch is impossible."""
        if self.start == "scratch":
            restarted(target.model, seed_of(material.seed, "scratch"))
        threat, memory = Threat(self.norm, self.eps), Memory()

        def perturb(x: Tensor, y: Tensor, ids: Tensor, epoch: int) -> Tensor:
            seed = seed_of(material.seed, "inner", epoch)
            return material.perturb(target, x, y, ids, self.inner, threat, seed)

        numbers = learn_robustly(
            target,
            recipe_of(self, material.seed),
            material,
            "adversarial_training",
            threat,
            perturb=partly(perturb, self.mix, Draws(material.seed, "adversarial_training"), memory),
            memory=memory,
            validate=self.validate,
            # PGD has no l0: there the examples are judged by the attack that makes them.
            validation=self.inner if self.norm == "l0" else VALIDATION,
            patience=self.patience,
        )
        told = {"threat": str(threat), "inner": str(self.inner), "start": self.start}
        return Fitted(numbers | told | {"examples_attacked": memory.numbers["attacked"]})
