"""Fast adversarial training: single-step examples from a random start, with a guard against learning only those.

d ~ U(-eps, eps), d <- clip(d + step * sign(grad J(x + d, y)), -eps, eps) (Wong, Rice & Kolter 2020, algorithm 3), the
step 1.25 eps. It can collapse within an epoch or two: the model comes to fool the single step and accuracy under PGD
falls to zero ("catastrophic overfitting"; a random start does not prevent it, Andriushchenko & Flammarion 2020). The
guard asks both after every epoch on examples held out of the training split. When PGD accuracy has fallen by more than
``drop`` below its best, and lies as far below the single step's, training stops and the weights of the best epoch (0:
the given ones) come back.

Cost an epoch: 2 backwards and 4 forwards a row, and guard_steps backwards a held-out row.

Known failures: a guard of too few steps or held-out rows sees the collapse late; a collapse short of ``drop`` is kept
(both accuracies are among the numbers).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor

from actsec.defenses._learning import copied, decisions_of, learn, require, restarted, seed_of, split_of
from actsec.draws import Draws
from actsec.errors import DataError
from actsec.spec import Spec
from actsec.training import Recipe
from actsec.types import Fitted, Material, Norm, Split, Target, Threat


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
        self._recipe(0)

    def wrap(self, target: Target) -> Target:
        """A copy: the structure does not change."""
        return copied(target)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Train in place under the guard. Raises DataError without a training split of at least two rows."""
        split, held = divide(split_of(material, "train", "fast_training"), self.holdout, material.seed)
        if self.start == "scratch":
            restarted(target.model, seed_of(material.seed, "scratch"))
        threat = Threat(self.norm, self.eps)
        single = Spec("pgd", (("steps", 1), ("step_size", self.step * self.eps)))
        guard = _Guard(target, held, material, threat, (single, Spec("pgd", (("steps", self.guard_steps),))), self.drop)
        guard(0)

        def perturb(x: Tensor, y: Tensor, ids: Tensor, epoch: int) -> Tensor:
            return material.perturb(target, x, y, ids, single, threat, seed_of(material.seed, "inner", epoch))

        numbers = learn(
            target, split, self._recipe(material.seed), material, "fast_training", perturb=perturb, after_epoch=guard
        )
        told: dict[str, Any] = {
            "threat": str(threat),
            "inner": str(single),
            "start": self.start,
            "examples_held_out": len(held.y),
            "holdout_single_step": guard.single,
            "holdout_pgd": guard.pgd,
            "kept_epoch": guard.settle(),
        }
        gap = guard.single[told["kept_epoch"]] - guard.pgd[told["kept_epoch"]]
        note = f"Held-out accuracy is {gap:.3f} higher under the single step than under PGD: it may fool single steps."
        return Fitted(numbers | told, (note,) if gap > self.drop else ())

    def _recipe(self, seed: int) -> Recipe:
        return Recipe(
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=seed,
        )


@dataclass(slots=True)
class _Guard:
    """Held-out accuracy under the single step and under PGD by epoch, and the weights of the best epoch."""

    target: Target
    held: Split
    material: Material
    threat: Threat
    attacks: tuple[Spec, Spec]
    drop: float
    single: list[float] = field(default_factory=list)
    pgd: list[float] = field(default_factory=list)
    best: int = 0
    kept: dict[str, Tensor] = field(default_factory=dict)
    collapsed: bool = False

    def __call__(self, epoch: int) -> str | None:
        single, pgd = (self._accuracy(attack) for attack in self.attacks)
        self.single.append(single)
        self.pgd.append(pgd)
        if not self.kept or pgd >= self.pgd[self.best]:
            self.best, self.kept = epoch, {k: v.clone() for k, v in self.target.model.state_dict().items()}
        self.collapsed = min(self.pgd[self.best], single) - pgd > self.drop
        if not self.collapsed:
            return None
        return (
            f"catastrophic overfitting in epoch {epoch}: held-out accuracy {single:.3f} under the single step, "
            f"{pgd:.3f} under PGD, {self.pgd[self.best]:.3f} after epoch {self.best}, which was kept"
        )

    def settle(self) -> int:
        """Bring the best weights back after a collapse; the epoch whose weights the model holds."""
        if not self.collapsed:
            return len(self.pgd) - 1
        self.target.model.load_state_dict(self.kept)
        return self.best

    def _accuracy(self, attack: Spec) -> float:
        x, y, ids = (part.to(self.target.device) for part in (self.held.x, self.held.y, self.held.id))
        found = self.material.perturb(self.target, x, y, ids, attack, self.threat, seed_of(self.material.seed, "guard"))
        decided = decisions_of(self.target, found, self.material.seed).argmax(-1)
        return float((decided == y).double().mean())


def divide(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """A split in two: to learn from, and ``share`` of it (at least one row) held out, chosen by row id and seed."""
    count = max(1, round(share * len(split.y)))
    if len(split.y) - count < 1:
        raise DataError("fast_training needs two training examples, one to hold out", "Give more training data.")
    order = Draws(seed, "holdout").uniform(split.id, 0, (1,))[:, 0].argsort(stable=True)
    held, rest = order[:count].sort().values, order[count:].sort().values
    return Split(split.x[rest], split.y[rest], split.id[rest]), Split(split.x[held], split.y[held], split.id[held])
