"""Adversarial training: learn from the examples an attack finds against the weights of that moment.

min over weights of E[ max over |d| <= eps of J(x + d, y) ] (Madry et al. 2017, equation 2.1), the inner maximum by the
attack ``inner``, with fresh random starts every epoch. ``mix`` below 1 leaves that share of the rows perturbed and the
others clean, drawn anew every epoch (Goodfellow et al. 2014, section 6). The attack runs in eval mode (running
batch-norm statistics), the update in train mode. Starts from the given weights, or from scratch.

Cost an epoch: what ``inner`` costs on the training split, and one forward and one backward of it.

Known failures: robustness holds for the norm and eps trained on, and falls for others; clean accuracy falls; too many
epochs overfit (Rice, Wong & Kolter 2020); weight decay alone can move the outcome by several points (Pang et al. 2020),
so compare only runs with equal recipes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from actsec.defenses._learning import copied, learn, require, restarted, seed_of, split_of
from actsec.draws import Draws
from actsec.spec import Spec
from actsec.training import Recipe
from actsec.types import Fitted, Material, Norm, Target, Threat


@dataclass(frozen=True, slots=True)
class AdversarialTraining:
    """Training on the examples that an attack finds."""

    eps: Annotated[float, "radius trained against, in input units"]
    norm: Annotated[Norm, "norm trained against"] = "linf"
    inner: Annotated[Spec, "the attack that makes the examples"] = Spec("pgd", (("steps", 7),))  # noqa: RUF009  # immutable
    epochs: Annotated[int, "passes over the training split"] = 15
    mix: Annotated[float, "share of the examples that are perturbed"] = 1.0
    start: Annotated[Literal["given", "scratch"], "the weights to begin with"] = "given"
    optimizer: Annotated[Literal["adam", "sgd"], "the update rule"] = "adam"
    learning_rate: Annotated[float, "the highest learning rate"] = 5e-3
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
        self._recipe(0)

    def wrap(self, target: Target) -> Target:
        """A copy: the structure does not change."""
        return copied(target)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Train in place. Raises DataError without a training split, ModelError where start=scratch is impossible."""
        split = split_of(material, "train", "adversarial_training")
        if self.start == "scratch":
            restarted(target.model, seed_of(material.seed, "scratch"))
        threat = Threat(self.norm, self.eps)
        draws = Draws(material.seed, "adversarial_training")
        attacked = 0

        def perturb(x: Tensor, y: Tensor, ids: Tensor, epoch: int) -> Tensor:
            nonlocal attacked
            chosen = draws.uniform(ids, epoch, (1,))[:, 0] < self.mix
            attacked += int(chosen.sum())
            if not bool(chosen.any()):
                return x
            seed = seed_of(material.seed, "inner", epoch)
            found = material.perturb(target, x[chosen], y[chosen], ids[chosen], self.inner, threat, seed)
            return x.masked_scatter(chosen.view(-1, *(1,) * (x.dim() - 1)).expand_as(x), found.to(x.dtype))

        numbers = learn(target, split, self._recipe(material.seed), material, "adversarial_training", perturb=perturb)
        told = {"threat": str(threat), "inner": str(self.inner), "start": self.start, "examples_attacked": attacked}
        return Fitted(numbers | told)

    def _recipe(self, seed: int) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=seed,
        )
