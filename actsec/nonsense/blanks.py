"""Blanks and noise made to look like a class, and how little must change for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actsec import registry
from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.losses import Confident
from actsec.search.ledger import ALREADY_WRONG, FOUND
from actsec.search.referee import attack_target
from actsec.spec import Spec
from actsec.types import Cases, Target

Array = NDArray[Any]

STARTS = ("black", "noise")
FOOLING = {
    "quick": "fooling(steps=20)",
    "standard": "fooling(steps=40, restarts=2)",
    "thorough": "fooling(steps=100, restarts=3)",
}
FOOLING_EPS = (0.1, 0.25, 0.5, 1.0)
FOOLING_CLASSES = 10
SURE = 0.99


@dataclass(frozen=True, slots=True)
class FollowedOn(Confident):
    """``Confident`` of a target with a detector: a start that it rejects is no success, and the row goes on."""

    settles: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Fooled:
    """What ``fool`` reached, one row for each start and class.

    start (m,) int64 indexes STARTS, target (m,) int64; eps (m,) float64: the smallest L-inf change of the start at
    which the class had the confidence asked for, infinity for none; confidence (m,): that of the class on x, 0 where
    there is no answer; x (m, *shape): the input so found, or the best attempt; forwards, backwards (m,) int64.
    """

    start: Array
    target: Array
    eps: Array
    confidence: Array
    x: Array
    forwards: Array
    backwards: Array


def fool(
    target: Target,
    *,
    classes: Sequence[int] | None = None,
    eps: Sequence[float] | None = None,
    confidence: float = SURE,
    attack: str | Spec = FOOLING["standard"],
    seed: int = 0,
    repeats: int = 1,
) -> Fooled:
    """Make a blank (all at the lower bound) and noise look like each class, within an L-inf ball around them.

    classes: all, or FOOLING_CLASSES spread over them where there are more; eps: radii tried, in input units, the box's
    width times FOOLING_EPS where not given; every success counts for its own size, which may be smaller. Each start,
    class and radius is one row of an ordinary attack under the goal ``confident``, judged by the referee. Where a
    detector abstains a success must be accepted, and rows are followed to their last step. Cost: at most starts *
    classes * radii * steps forwards and backwards for each restart. Raises BadOption.
    """
    low, high = target.bounds
    count = len(target.classes)
    chosen = spaced(count) if classes is None else tuple(classes)
    radii = tuple(e * (high - low) for e in FOOLING_EPS) if eps is None else tuple(eps)
    if not chosen or not all(0 <= c < count for c in chosen):
        raise BadOption(f"classes {list(chosen)}: the target has {count}", "Classes count from 0; give at least one.")
    if not radii or not all(e > 0 for e in radii):
        raise BadOption(f"eps {list(radii)}", "Give radii above 0, in input units.")
    if not 0.5 <= confidence < 1:
        raise BadOption(f"confidence {confidence}", "Give a probability from 0.5 to 1, such as 0.99.")
    pairs = torch.cartesian_prod(torch.arange(len(STARTS)), torch.tensor(chosen)).to(target.device)
    rows = _rows(target, pairs, radii, seed)
    verdicts = attack_target(
        registry.build("attacks", attack),
        target,
        rows,
        (Confident if target.rejects is None else FollowedOn)(confidence, target.threshold),
        seed=seed,
        name=f"{attack}@nonsense",
        repeats=repeats,
    )
    reached = (verdicts.status == FOUND) | (verdicts.status == ALREADY_WRONG)
    size = torch.where(reached, verdicts.size, torch.inf).reshape(len(pairs), -1)
    undo = target.having(threshold=None if target.threshold is None else 1 - target.threshold)
    own = undo.decision_logits(verdicts.logits.double())
    sure = torch.softmax(own, 1).gather(1, rows.target[:, None]).nan_to_num(0.0).reshape(size.shape)
    # The smallest success; of none, the radius at which the class came nearest.
    best = torch.where(torch.isfinite(size).any(1), size.argmin(1), sure.argmax(1))[:, None]
    x = verdicts.x.reshape(*size.shape, *target.shape)
    return Fooled(
        start=pairs[:, 0].cpu().numpy(),
        target=pairs[:, 1].cpu().numpy(),
        eps=size.amin(1).cpu().numpy(),
        confidence=sure.gather(1, best)[:, 0].cpu().numpy(),
        x=x[torch.arange(len(pairs)), best[:, 0]].cpu().numpy(),
        forwards=verdicts.forwards.reshape(size.shape).sum(1).cpu().numpy(),
        backwards=verdicts.backwards.reshape(size.shape).sum(1).cpu().numpy(),
    )


def spaced(count: int) -> tuple[int, ...]:
    """Every class, or FOOLING_CLASSES of them at equal distances."""
    return tuple(dict.fromkeys(np.linspace(0, count - 1, min(count, FOOLING_CLASSES)).round().astype(int).tolist()))


def _rows(target: Target, pairs: Tensor, radii: Sequence[float], seed: int) -> Cases:
    """One row for each pair (start, class) and radius. A row has no true class: its label is its target."""
    low, high = target.bounds
    row = pairs[:, 0] * len(target.classes) + pairs[:, 1]
    noise = low + (high - low) * Draws(seed, "nonsense/start").uniform(row, 0, tuple(target.shape))
    blank = pairs[:, 0].reshape(-1, *(1,) * len(target.shape)) == STARTS.index("black")
    one = Cases(
        id=row,
        x=torch.where(blank, torch.full_like(noise, low), noise),
        y=pairs[:, 1],
        target=pairs[:, 1],
        eps=torch.zeros(len(pairs), dtype=torch.float64, device=pairs.device),
        norm="linf",
        low=low,
        high=high,
    )
    many = one.repeated(len(radii))
    return replace(many, eps=torch.tensor(radii, dtype=torch.float64, device=pairs.device).repeat(len(pairs)))
