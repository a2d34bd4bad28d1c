"""ACT-M17: the search had come to rest before it ended (Pintor et al. 2022, indicator "incomplete optimization").

Of the examples followed question by question that the iterative attack left standing, the best score so far is
rescaled to [0, 1] over its course; a row still climbs when it rose by more than 0.05 within the last 10 questions.
The longer attack is read only where that was not made: of several starts the best so far hides the last one's course.

    warn             more than half of these rows still climb (the lower end of the 95 % interval), and twice the steps
                     broke more, or were not tried. Never red: how much more they break is measured, by ACT-M04
    not applicable   the attack left none of the rows it followed
    ok               otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from actsec.diagnostics._evidence import accuracy, finding, gap, lower_bound, percent, unanswerable
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class StillClimbing:
    """The end of the course of an iterative attack."""

    limit: float = 0.5
    rise: float = 0.05
    last: int = 10
    least: float = 0.02

    rule: ClassVar[str] = "ACT-M17"
    title: ClassVar[str] = "A longer search would bring no more"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = False
    dig: ClassVar[str] = "apgd(steps=200, restarts=5)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if (missing := unanswerable(self, evidence, follows=True)) is not None:
            yield missing
            return
        followed = [evidence.courses[role] for role in ("iterative", "doubled") if role in evidence.courses]
        if not followed or followed[0].shape[1] <= self.last:
            yield finding(self, "not_done", f"Not done: no attack of more than {self.last} steps was followed.")
            return
        rises = self._rises(followed[0])
        n, k = len(rises), int(np.sum(rises > self.rise))
        if not n:
            yield finding(self, "not_applicable", "The attack broke every example whose course was followed.")
            return
        numbers = {"value": k / n, "limit": self.limit, "n": n, "k": k, "median_rise": float(np.median(rises))}
        claim = f"{k} of {n} followed examples ({percent(k / n)}) still climbed in the last {self.last} steps."
        climbs = lower_bound(k, n) > self.limit
        if climbs and self._enough(evidence):
            yield finding(self, "ok", f"{claim} Twice the steps broke no more.", numbers)
        elif climbs:
            yield finding(self, "warn", claim, numbers, "Use more steps (--budget thorough).", severity="low")
        else:
            yield finding(self, "ok", claim, numbers)

    def _enough(self, evidence: Evidence) -> bool:
        """Whether an attack with twice the steps was made and is no stronger (see ACT-M04)."""
        if not {"iterative", "doubled"} <= evidence.correct.keys():
            return False
        return not gap(accuracy(evidence, "iterative"), accuracy(evidence, "doubled"), self.least).large

    def _rises(self, courses: NDArray[Any]) -> NDArray[Any]:
        """By how much of its whole rise each row (rows, questions) rose at the end; 0 where it never moved."""
        found = []
        for course in courses:
            best = course[np.isfinite(course)]
            if len(best) > self.last:
                best = np.maximum.accumulate(best)
                whole = best[-1] - best[0]
                found.append((best[-1] - best[-1 - self.last]) / whole if whole > 0 else 0.0)
        return np.asarray(found)
