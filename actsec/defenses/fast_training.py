"""Fast adversarial training: single-step examples from a random start, with a guard against learning only those.

d ~ U(-eps, eps), d <- clip(d + step * sign(grad J(x + d, y)), -eps, eps) (Wong, Rice & Kolter 2020, algorithm 3), the
step 1.25 eps. It can collapse within an epoch or two: the model comes to fool the single step and accuracy under PGD
falls to zero ("catastrophic overfitting"; a random start does not prevent it, Andriushchenko & Flammarion 2020). The
guard asks both after every epoch on examples held out of the training split. When PGD accuracy has fallen by more than
``drop`` below its best, and lies as far below the single step's, training stops and the weights of the best epoch (0:
the given ones) come back. How well the gradients at x and at a random point of the ball agree (their mean cosine, the
measure of the second paper) is told epoch by epoch; it falls towards 0 in a collapse.

Cost an epoch: 2 forwards and 2 backwards a row; guard_steps + 3 of both a row held out, and a few forwards. The guard
looks once more before the first.

Known failures: a guard of too few steps or held-out rows sees the collapse late; a collapse short of ``drop`` is kept
(both accuracies are among the numbers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor

from actsec.defenses._holdout import Holdout, divide
from actsec.defenses._learning import Count, copied, learn, recipe_of, require, restarted, seed_of, split_of
from actsec.spec import Spec
from actsec.training import Memory
from actsec.training.recipe import Schedule
from actsec.types import Fitted, Material, Norm, Target, Threat

SINGLE, PGD, ALIGNMENT = "holdout_single_step", "holdout_pgd", "holdout_gradient_alignment"


@dataclass(frozen=True, slots=True)
class FastTraining:
    """FGSM training from a random start, guarded."""

    eps: Annotated[float, "radius trained against, in input units"]
    norm: Annotated[Norm, "norm trained against"] = "linf"
    step: Annotated[float, "size of the single step, as a multiple of eps"] = 1.25
    epochs: Annotated[int, "passes over the training split"] = 15
    holdout: Annotated[float, "share of the training split kept for the guard"] = 0.1
    guard_steps: Annotated[int, "steps of the guard's PGD"] = 10
    drop: Annotated[float, "fall of held-out PGD accuracy that ends training"] = 0.2
    start: Annotated[Literal["given", "scratch"], "the weights to begin with"] = "given"
    optimizer: Annotated[Literal["adam", "sgd"], "the update rule"] = "adam"
    learning_rate: Annotated[float, "the highest learning rate"] = 5e-3
    schedule: Annotated[Schedule, "how the rate goes: up and down, down, or constant"] = "one_cycle"
    batch_size: Annotated[int, "examples an update"] = 64
    weight_decay: Annotated[float, "L2 penalty"] = 0.0

    needs: ClassVar[Literal["nothing", "calibration", "train"]] = "train"
    claims: ClassVar[str] = (
        "Raises accuracy under attacks within the norm and eps it was trained against, cheaply; it may have learnt to "
        "fool single steps, so only iterated attacks say what it is worth."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "robustness"
    adaptive: ClassVar[tuple[str, ...]] = ("pgd(steps=50, restarts=2, loss=margin)",)

    def __post_init__(self) -> None:
        Threat(self.norm, self.eps)
        require(0 < self.step <= 2, "fast_training(step=...)", self.step, "a multiple of eps above 0 and at most 2")
        require(0 < self.holdout <= 0.5, "fast_training(holdout=...)", self.holdout, "a share above 0 and at most 0.5")
        require(self.guard_steps >= 2, "fast_training(guard_steps=...)", self.guard_steps, "at least 2 steps")
        require(0 < self.drop < 1, "fast_training(drop=...)", self.drop, "a share above 0 and below 1")
        recipe_of(self, 0)

    def wrap(self, target: Target) -> Target:
        """A copy: the structure does not change."""
        return copied(target)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Train in place under the guard. Raises DataError without a training split of at least two rows."""
        split, held = divide(split_of(material, "train", "fast_training"), self.holdout, material.seed, "fast_training")
        if self.start == "scratch":
            restarted(target.model, seed_of(material.seed, "scratch"))
        threat, memory = Threat(self.norm, self.eps), Memory()
        single = Spec("pgd", (("steps", 1), ("step_size", self.step * self.eps)))
        iterated = Spec("pgd", (("steps", self.guard_steps),))
        holdout = Holdout(target, held, material, threat, memory)
        guard = _Guard(holdout, single, iterated, self.drop)
        with Count(memory).of(target):
            guard(0)

        def perturb(x: Tensor, y: Tensor, ids: Tensor, epoch: int) -> Tensor:
            seed = seed_of(material.seed, "inner", epoch)
            found: Tensor = material.perturb(target, x, y, ids, single, threat, seed)
            return found

        recipe = recipe_of(self, material.seed)
        numbers = learn(
            target,
            split,
            recipe,
            material,
            "fast_training",
            perturb=perturb,
            after_epoch=guard,
            settle=guard.settle,
            memory=memory,
        )
        told: dict[str, Any] = {"threat": str(threat), "inner": str(single), "start": self.start}
        told |= {"examples_held_out": len(held.y)}
        told |= {name: holdout.course(name) for name in (SINGLE, PGD, ALIGNMENT)}
        gap = told[SINGLE][numbers["kept_epoch"]] - told[PGD][numbers["kept_epoch"]]
        note = f"Held-out accuracy is {gap:.3f} higher under the single step than under PGD: it may fool single steps."
        return Fitted(numbers | told, (note,) if gap > self.drop else ())


@dataclass(slots=True)
class _Guard:
    """Held-out accuracy under the single step and under PGD after every epoch, and the weights of the best one."""

    holdout: Holdout
    single: Spec
    iterated: Spec
    drop: float

    def __call__(self, epoch: int) -> str | None:
        best = max(self.holdout.course(PGD), default=-1.0)
        single, pgd = self.holdout.accuracy(SINGLE, self.single), self.holdout.accuracy(PGD, self.iterated)
        self.holdout.alignment(ALIGNMENT)
        if pgd >= best:
            self.holdout.keep(epoch)
        best = max(best, pgd)
        self.holdout.memory.numbers["collapsed"] = min(best, single) - pgd > self.drop
        if not self.holdout.memory.numbers["collapsed"]:
            return None
        return (
            f"catastrophic overfitting in epoch {epoch}: held-out accuracy {single:.3f} under the single step, "
            f"{pgd:.3f} under PGD, {best:.3f} after epoch {self.holdout.memory.numbers['kept_epoch']}, which was kept"
        )

    def settle(self) -> int:
        """Bring the best weights back after a collapse; the epoch whose weights the model holds."""
        if self.holdout.memory.numbers["collapsed"]:
            return self.holdout.bring_back()
        return len(self.holdout.course(PGD)) - 1
