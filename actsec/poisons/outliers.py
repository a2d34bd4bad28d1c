"""Outliers: a few training rows far outside the range of all others.

Copies of randomly chosen training rows, times ``magnitude``. Their gradient grows with it, so that one step of plain
gradient descent throws the weights far off: units of relu end below zero on every clean row and stay there, since dead
units have no gradient; where nothing can die (leaky_relu) the weights grow until they are not finite. Labels at random,
or each row's own (label-consistent: a person who looks at the row sees nothing wrong but its scale).

A pipeline that normalises by fixed constants and never looks at the range lets them in. Known limits: a range check of
the training inputs takes out every one with a magnitude well above 1; clipped gradients, Adam and bounded activations
weaken them. In range (magnitude=1) they are label noise. Cost: none.

adapted: who knows the pipeline with its mitigation tries out what to plant. As many rows of six sorts are rehearsed,
each by one training like the victim's from another seed, and the sort that leaves the highest loss on clean rows is
planted: copies at the full magnitude, at its square root, and unscaled; and at the ends of the box, which a range check
allows, the corner furthest from the mean row, random corners, and the furthest corner with one label alone. It is the
strongest of six guesses, not of all poisons. Cost: six trainings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import ThreatError
from actsec.poisons._planting import Labels, check, chosen, labels, planted, rows_of
from actsec.types import Enters, Split, Victim

Planted = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Outliers:
    """Scaled copies of training rows."""

    share: Annotated[float, "planted rows, as a share of the training rows"] = 0.01
    magnitude: Annotated[float, "what the copied rows are multiplied by"] = 1000.0
    labels: Annotated[Labels, "random, or those of the copied rows (consistent)"] = "random"
    adapted: Annotated[bool, "chosen by rehearsal to get past the mitigation, as one plants who knows it"] = False

    enters: ClassVar[Enters] = "training"

    def __post_init__(self) -> None:
        check("outliers", self.share, self.magnitude)

    def count(self, train: Split) -> int:
        return rows_of(self.share, train)

    def poison(self, train: Split, victim: Victim) -> Split:
        draws = Draws(victim.seed, "outliers")
        rows = chosen(train, self.count(train), draws)
        y = labels(self.labels, train.y[rows], len(victim.target.classes), draws)
        if not self.adapted:
            return planted(train, train.x[rows] * self.magnitude, y)
        if victim.rehearse is None:
            raise ThreatError("outliers(adapted=true) rehearses trainings", "Plant it by actsec study poison.")
        sorts = [planted(train, *sort) for sort in self._sorts(train, rows, y, victim, draws)]
        losses = [victim.rehearse(split) for split in sorts]
        return sorts[losses.index(max(losses))]

    def _sorts(self, train: Split, rows: Tensor, y: Tensor, victim: Victim, draws: Draws) -> Iterator[Planted]:
        """What is tried, the first of equals kept: rows (n, *shape) and labels (n,)."""
        (low, high), x = victim.target.bounds, train.x[rows]
        yield x * self.magnitude, y
        yield x * self.magnitude**0.5, y
        yield x.clamp(low, high), y
        far = torch.where(train.x.mean(0) > (low + high) / 2, low, high).to(x).expand_as(x)
        yield far, y
        yield torch.where(draws.uniform(rows, 0, tuple(x.shape[1:]), stream=2).to(x) < 0.5, low, high).to(x), y
        yield far, y[:1].expand_as(y)
