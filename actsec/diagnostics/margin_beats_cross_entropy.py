"""ACT-M02: the margin attack breaks no more than the same attack on cross-entropy.

warn   accuracy after the iterative attack minus after the margin attack exceeds delta: the cross-entropy number
       alone is too high. Never red: the worst case is taken over both, and some honest models (adversarially
       trained ones among them) are simply easier to attack by their margin
ok     otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import accuracy, finding, gap, numbers, percent, unanswerable
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class MarginBeatsCrossEntropy:
    """The margin attack against the cross-entropy attack."""

    least: float = 0.02

    rule: ClassVar[str] = "ACT-M02"
    title: ClassVar[str] = "Cross-entropy is no worse a guide than the margin"
    roles: ClassVar[tuple[str, ...]] = ("iterative", "margin")
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = True
    dig: ClassVar[str] = "pgd(steps=200, restarts=5, loss=margin)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if (missing := unanswerable(self, evidence)) is not None:
            yield missing
            return
        found = gap(accuracy(evidence, "iterative"), accuracy(evidence, "margin"), self.least)
        claim = f"After cross-entropy {percent(found.first)} are correct, after the margin {percent(found.second)}."
        if found.large:
            advice = "Use the margin attack's number; the cross-entropy number alone is too high."
            yield finding(self, "warn", claim, numbers(found), advice, severity="medium")
        else:
            yield finding(self, "ok", claim, numbers(found))
