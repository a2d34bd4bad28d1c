"""Random rows: the control that a poison must beat.

As many rows as the poison plants, every feature uniform in the box, every label any class with equal chance. What they
do as well is no merit of the poison: at high learning rates any bad batch destroys a network.

Cost: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.poisons._planting import labels, planted
from actsec.types import Enters, Split, Victim


@dataclass(frozen=True, slots=True)
class RandomRows:
    """Uniform rows with random labels."""

    rows: Annotated[int, "planted rows"] = 16

    enters: ClassVar[Enters] = "training"

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise BadOption(f"random_rows(rows={self.rows})", "rows is at least 1.")

    def count(self, train: Split) -> int:
        return self.rows

    def poison(self, train: Split, victim: Victim) -> Split:
        draws, (low, high) = Draws(victim.seed, "random_rows"), victim.target.bounds
        at = torch.arange(self.rows)
        x = low + (high - low) * draws.uniform(at, 0, tuple(train.x.shape[1:]))
        y = labels("random", train.y[:1].expand(self.rows), len(victim.target.classes), draws)
        return planted(train, x.to(train.x), y)
