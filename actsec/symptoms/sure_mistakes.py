"""ACT-A07: the model is sure of its mistakes.

    medium   mean confidence above 0.9 over at least 5 wrong answers

A threshold on confidence would let such answers pass. Why is not decided here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.result import Problem
from actsec.symptoms._seen import Seen, said


@dataclass(frozen=True, slots=True)
class SureMistakes:
    """Wrong and certain."""

    fewest: int = 5
    sure: float = 0.9

    rule: ClassVar[str] = "ACT-A07"
    title: ClassVar[str] = "Mistakes are made with doubt"

    def __call__(self, seen: Seen) -> Iterator[Problem]:
        wrong = seen.accuracy.n - seen.accuracy.k
        sure = None if seen.calibration is None else seen.calibration.confidence_when_wrong
        if wrong < self.fewest or sure is None or sure <= self.sure:
            return
        claim = f"sure of its mistakes: mean confidence {sure:.3f} on {wrong} wrong answers"
        mend = "Do not use its confidence to decide what a person should look at; try actsec defend temperature."
        yield said(self, "medium", claim, mend, "cannot tell", f"{wrong} of {seen.accuracy.n} are wrong")
