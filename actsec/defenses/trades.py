"""TRADES: learn the labels of clean examples, and to say the same of everything within eps of them.

min over weights of E[ CE(f(x), y) + beta * max over |d| <= eps of KL(p(x) || p(x + d)) ] (Zhang, Yu, Jiao, Xing, El
Ghaoui & Jordan 2019, equation 5; beta is their 1 / lambda). ``inner`` climbs that divergence, whatever its own loss is,
and sees no label. At x itself the divergence has no gradient: the authors start from noise of standard deviation 0.001.
Where our attacks start is their own affair (``fgsm`` at x), so ``inner`` climbs the divergence from what the model says
of a random point within 3 % of the radius, which has a gradient at x for each of them; the training itself is against
p(x). Larger beta buys robustness with clean accuracy; the authors use 1 to 6. The attack runs in eval mode; clean and
perturbed examples go through the model in train mode one after the other, so that batch norm sees each kind alone, as
in the authors' code.

``validate`` and ``patience`` choose the epoch as in adversarial_training, by accuracy under PGD on rows held out.

Cost an epoch: what ``inner`` costs on the training split, and 3 forwards and 2 backwards of it; 10 of both for each row
held out.

Known failures: those of adversarial training; with labels that are wrong it still smooths, and with a beta too large
the model says the same of everything (clean accuracy falls to that of a constant).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from actsec.defenses._holdout import VALIDATION, checked_validation, learn_robustly
from actsec.defenses._learning import copied, recipe_of, require, restarted, seed_of
from actsec.draws import Draws
from actsec.geometry import place, random_start
from actsec.losses import Divergence
from actsec.search.oracle import Oracle, frozen
from actsec.spec import Spec
from actsec.training import Memory
from actsec.training.recipe import Schedule
from actsec.types import Cases, Fitted, Material, Norm, Target, Threat

BESIDE = 0.03
"""How far from x, in shares of the radius, the divergence is measured from while it is climbed."""


@dataclass(frozen=True, slots=True)
class Trades:
    """Training to be right on clean examples and steady around them."""

    eps: Annotated[float, "radius trained against, in input units"]
    norm: Annotated[Norm, "norm trained against"] = "linf"
    beta: Annotated[float, "weight of the divergence beside the cross-entropy"] = 6.0
    inner: Annotated[Spec, "the attack that climbs the divergence"] = Spec("pgd", (("steps", 7),))  # noqa: RUF009  # immutable
    epochs: Annotated[int, "passes over the training split"] = 15
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
        "Raises accuracy under attacks within the norm and eps it was trained against, at a price in clean accuracy "
        "that beta sets; it certifies nothing and promises nothing for other threats."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "robustness"
    adaptive: ClassVar[tuple[str, ...]] = ("pgd(steps=50, restarts=2, loss=margin)",)

    def __post_init__(self) -> None:
        Threat(self.norm, self.eps)
        require(0 < self.beta < float("inf"), "trades(beta=...)", self.beta, "a weight above 0 such as 6")
        checked_validation("trades", self.validate, self.patience)
        recipe_of(self, 0)

    def wrap(self, target: Target) -> Target:
        """A copy: the structure does not change."""
        return copied(target)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Train in place. Raises DataError without a training split, ModelError where start=scratch is impossible."""
        if self.start == "scratch":
            restarted(target.model, seed_of(material.seed, "scratch"))
        threat, draws = Threat(self.norm, self.eps), Draws(material.seed, "trades")

        def perturb(x: Tensor, y: Tensor, ids: Tensor, epoch: int) -> Tensor:
            order = ids.argsort()
            labels, reach = y[order], torch.full((len(y),), self.eps, dtype=torch.float64, device=x.device)
            cases = Cases(ids[order], x[order], labels, torch.full_like(labels, -1), reach, self.norm, *target.bounds)
            beside = place(cases, BESIDE * random_start(cases, draws, epoch))
            with frozen(target.model):
                said = Oracle(target).observe(beside).logits.log_softmax(1)
            seed, loss = seed_of(material.seed, "inner", epoch), Divergence(ids[order], said)
            found: Tensor = material.perturb(target, x, y, ids, self.inner, threat, seed, loss)
            return found.to(x.dtype)

        numbers = learn_robustly(
            target,
            recipe_of(self, material.seed),
            material,
            "trades",
            threat,
            perturb=perturb,
            objective=self._objective,
            memory=Memory(),
            validate=self.validate,
            validation=self.inner if self.norm == "l0" else VALIDATION,
            patience=self.patience,
        )
        told = {"threat": str(threat), "inner": str(self.inner), "start": self.start, "beta": self.beta}
        return Fitted(numbers | told)

    def _objective(self, ask: Callable[[Tensor], Tensor], x: Tensor, found: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The clean logits, and beta times the mean divergence; both sides of it are differentiated."""
        logits, moved = ask(x), ask(found).log_softmax(1)
        before = logits.log_softmax(1)
        return logits, self.beta * (before.exp() * (before - moved)).sum(1).mean()
