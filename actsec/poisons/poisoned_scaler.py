"""Poisoned scaler: a few huge rows that shrink every clean feature.

Standardisation by the mean and standard deviation of the training rows is a model of its own, fitted to what it is
given. Copies of rows times ``magnitude``, with their own labels, blow the standard deviations up: where a share s of
the rows is M times as large, they are about M sqrt(s) times the clean rows' root mean square, and every clean row
ends close to the same point in every feature in which the planted rows are not 0. The network then sees next to
nothing of what tells the classes apart.

Known limits: a range check before the scaler is fitted takes the rows out; a scaler by median and quartiles would not
move; a network trained for long enough can grow weights that undo the shrinking. Without a scaler in the pipeline this
is ``outliers(labels=consistent)``. Cost: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from actsec.draws import Draws
from actsec.poisons._planting import check, chosen, planted, rows_of
from actsec.types import Enters, Split, Victim


@dataclass(frozen=True, slots=True)
class PoisonedScaler:
    """Huge rows for a scaler to be fitted to."""

    share: Annotated[float, "planted rows, as a share of the training rows"] = 0.01
    magnitude: Annotated[float, "what the copied rows are multiplied by"] = 1000.0

    enters: ClassVar[Enters] = "scaler"

    def __post_init__(self) -> None:
        check("poisoned_scaler", self.share, self.magnitude)

    def count(self, train: Split) -> int:
        return rows_of(self.share, train)

    def poison(self, train: Split, victim: Victim) -> Split:
        rows = chosen(train, self.count(train), Draws(victim.seed, "poisoned_scaler"))
        return planted(train, train.x[rows] * self.magnitude, train.y[rows])
