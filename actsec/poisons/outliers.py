"""Outliers: a few training rows far outside the range of all others.

Copies of randomly chosen training rows, times ``magnitude``. Their gradient grows with it, so that one step of plain
gradient descent throws the weights far off: units of relu end below zero on every clean row and stay there, since dead
units have no gradient; where nothing can die (leaky_relu) the weights grow until they are not finite. Labels at random,
or each row's own (label-consistent: a person who looks at the row sees nothing wrong but its scale).

A pipeline that normalises by fixed constants and never looks at the range lets them in. Known limits: a range check of
the training inputs takes out every one with a magnitude well above 1; clipped gradients, Adam and bounded activations
weaken them. In range (magnitude=1) they are label noise. Cost: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from actsec.draws import Draws
from actsec.poisons._planting import Labels, check, chosen, labels, planted, rows_of
from actsec.types import Enters, Split, Victim


@dataclass(frozen=True, slots=True)
class Outliers:
    """Scaled copies of training rows."""

    share: Annotated[float, "planted rows, as a share of the training rows"] = 0.01
    magnitude: Annotated[float, "what the copied rows are multiplied by"] = 1000.0
    labels: Annotated[Labels, "random, or those of the copied rows (consistent)"] = "random"

    enters: ClassVar[Enters] = "training"

    def __post_init__(self) -> None:
        check("outliers", self.share, self.magnitude)

    def count(self, train: Split) -> int:
        return rows_of(self.share, train)

    def poison(self, train: Split, victim: Victim) -> Split:
        draws = Draws(victim.seed, "outliers")
        rows = chosen(train, self.count(train), draws)
        y = labels(self.labels, train.y[rows], len(victim.target.classes), draws)
        return planted(train, train.x[rows] * self.magnitude, y)
