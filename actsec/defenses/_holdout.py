"""A share of the training split held out: accuracy under an attack on it, epoch by epoch, and the best weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from actsec import geometry
from actsec.defenses._learning import Perturb, decisions_of, learn, require, seed_of, split_of
from actsec.draws import Draws
from actsec.errors import DataError
from actsec.losses import CrossEntropy
from actsec.search.oracle import Oracle, frozen
from actsec.spec import Spec
from actsec.training import Memory, Objective, Recipe
from actsec.types import Cases, Material, Split, Target, Threat

VALIDATION = Spec("pgd", (("steps", 10),))
ROBUST = "holdout_robust_accuracy"


def checked_validation(defense: str, validate: float, patience: int | None) -> None:
    """Raise BadOption unless the two options of ``learn_robustly`` are such as it can follow."""
    require(0 <= validate <= 0.5, f"{defense}(validate=...)", validate, "a share from 0 to 0.5")
    if patience is not None:
        require(patience >= 1, f"{defense}(patience=...)", patience, "1 or more epochs, or none")
        require(validate > 0, f"{defense}(patience={patience}) with validate", validate, "a share above 0")


def divide(split: Split, share: float, seed: int, defense: str) -> tuple[Split, Split]:
    """A split in two: to learn from, and ``share`` of it (at least one row) held out, chosen by row id and seed."""
    count = max(1, round(share * len(split.y)))
    if len(split.y) - count < 1:
        raise DataError(f"{defense} needs two training examples, one to hold out", "Give more training data.")
    order = Draws(seed, "holdout").uniform(split.id, 0, (1,))[:, 0].argsort(stable=True)
    held, rest = order[:count].sort().values, order[count:].sort().values
    return Split(split.x[rest], split.y[rest], split.id[rest]), Split(split.x[held], split.y[held], split.id[held])


@dataclass(slots=True)
class Holdout:
    """Looks at a target on rows it does not learn from. What it finds is in ``memory``, so interruptions keep it."""

    target: Target
    held: Split
    material: Material
    threat: Threat
    memory: Memory

    def accuracy(self, name: str, attack: Spec) -> float:
        """Accuracy under an attack with the same random start every time, added to the course called ``name``.

        Cost: what the attack costs on the rows held out, and one forward of each.
        """
        x, y, ids = self._rows()
        found = self.material.perturb(self.target, x, y, ids, attack, self.threat, seed_of(self.material.seed, "guard"))
        decided = decisions_of(self.target, found, self.material.seed).argmax(-1)
        return self._noted(name, float((decided == y).double().mean()))

    def alignment(self, name: str) -> float:
        """Mean cosine of the loss's gradients at x and at a random point of the ball, added to the course ``name``.

        (GradAlign's measure, Andriushchenko & Flammarion 2020, equation 5: it falls to zero as a model comes to fool
        single steps.) A row without a gradient counts as 0. Cost: 2 forwards and 2 backwards of each row.
        """
        x, y, ids = self._rows()
        reach = torch.full((len(y),), self.threat.eps or 0.0, dtype=torch.float64, device=y.device)
        cases = Cases(ids, x, y, torch.full_like(y, -1), reach, self.threat.norm, *self.target.bounds)
        beside = geometry.place(cases, geometry.random_start(cases, Draws(self.material.seed, "alignment"), 0))
        with frozen(self.target.model):
            first, second = (
                Oracle(self.target).differentiate(point, cases, CrossEntropy(), False)[2].flatten(1)
                for point in (x, beside)
            )
        return self._noted(name, float(F.cosine_similarity(first, second, dim=1).double().mean()))

    def keep(self, epoch: int) -> None:
        """Remember the weights of this moment as those of ``epoch``."""
        self.memory.numbers["kept_epoch"] = epoch
        state = self.target.model.state_dict()
        self.memory.tensors.update({f"kept.{key}": value.clone() for key, value in state.items()})

    def bring_back(self) -> int:
        """Put the weights kept last into the model; the epoch they are of."""
        kept = {key.removeprefix("kept."): value for key, value in self.memory.tensors.items()}
        self.target.model.load_state_dict(kept)
        return int(self.memory.numbers["kept_epoch"])

    def course(self, name: str) -> list[float]:
        """What was found epoch by epoch."""
        found: list[float] = self.memory.numbers.get(name, [])
        return found

    def _noted(self, name: str, value: float) -> float:
        self.memory.numbers.setdefault(name, []).append(value)
        return value

    def _rows(self) -> tuple[Tensor, Tensor, Tensor]:
        device = self.target.device
        return self.held.x.to(device), self.held.y.to(device), self.held.id.to(device)


def best_by(holdout: Holdout, attack: Spec, epoch: int, patience: int | None) -> str | None:
    """After an epoch: measure, keep the weights if none were better, and say when to stop.

    (Rice, Wong & Kolter 2020: adversarial training overfits, and the best epoch on held-out rows is most of the mend.)
    """
    best = max(holdout.course(ROBUST), default=-1.0)
    if holdout.accuracy(ROBUST, attack) >= best:
        holdout.keep(epoch)
    if patience is not None and epoch - int(holdout.memory.numbers["kept_epoch"]) >= patience:
        return f"robust accuracy on the rows held out has not risen for {patience} epochs"
    return None


def learn_robustly(
    target: Target,
    recipe: Recipe,
    material: Material,
    label: str,
    threat: Threat,
    *,
    perturb: Perturb,
    memory: Memory,
    objective: Objective | None = None,
    validate: float = 0.0,
    validation: Spec = VALIDATION,
    patience: int | None = None,
) -> dict[str, Any]:
    """``learn`` on the training split, ``validate`` of it held out to choose the epoch by; the numbers of both.

    Loss and accuracy are those of the epoch kept. Without a share held out the last epoch is kept. Raises DataError
    without a training split.
    """
    split = split_of(material, "train", label)
    if not validate:
        numbers = learn(target, split, recipe, material, label, perturb=perturb, objective=objective, memory=memory)
        return numbers | {"examples_held_out": 0}
    split, held = divide(split, validate, material.seed, label)
    holdout = Holdout(target, held, material, threat, memory)
    numbers = learn(
        target,
        split,
        recipe,
        material,
        label,
        perturb=perturb,
        objective=objective,
        after_epoch=lambda epoch: best_by(holdout, validation, epoch, patience),
        settle=holdout.bring_back,
        memory=memory,
    )
    found = {"examples_held_out": len(held.y), "validation": str(validation), ROBUST: holdout.course(ROBUST)}
    return numbers | found
