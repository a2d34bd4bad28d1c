"""EXAMPLE-M01: noise of the size of the budget leaves the model alone.

    warn         noise breaks more than ``most`` of the rows that were right untouched
    ok           otherwise

Where noise alone breaks rows no adversary is needed, and robust accuracy says little about one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """How many rows noise alone breaks."""

    most: float = 0.1

    rule: ClassVar[str] = "EXAMPLE-M01"
    title: ClassVar[str] = "Noise alone breaks little"
    roles: ClassVar[tuple[str, ...]] = ("noise",)
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = False

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        """One finding, also when all is well; not done where no noise was tried."""
        if "noise" not in evidence.correct:
            claim, advice = "Not done: no noise was tried.", "Add noise to the plan."
            yield Finding(self.rule, self.title, "not_done", claim, advice=advice)
            return
        right = np.asarray(evidence.clean, dtype=float)
        lost = float((right - np.minimum(right, evidence.correct["noise"])).mean())
        numbers = {"value": lost, "limit": self.most, "n": len(right)}
        claim = f"Noise alone breaks {lost:.1%} of {len(right)} rows."
        if lost <= self.most:
            yield Finding(self.rule, self.title, "ok", claim, numbers)
        else:
            yield Finding(self.rule, self.title, "warn", claim, numbers, "Train with noise first.", "low")
