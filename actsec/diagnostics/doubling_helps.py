"""ACT-M04: the attack had converged: twice the steps and restarts change nothing (Carlini et al. 2019).

    red, voids   the doubled attack breaks more than delta of all rows that every other attack of the audit together
                 leaves: still more steps would break still more, and the worst case is too high
    warn         the doubled attack is stronger than the plain one by more than delta, but the other attacks had already
                 broken those rows
    ok           otherwise

A red one says that the search was too short, or misled; it is no sign of masking by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import accuracy, after, finding, gap, numbers, percent, still, unanswerable
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class DoublingHelps:
    """The iterative attack against itself with twice the steps and restarts."""

    least: float = 0.02

    rule: ClassVar[str] = "ACT-M04"
    title: ClassVar[str] = "Twice the steps change nothing"
    roles: ClassVar[tuple[str, ...]] = ("iterative", "doubled")
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = True
    dig: ClassVar[str] = "apgd(steps=200, restarts=10)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if (missing := unanswerable(self, evidence)) is not None:
            yield missing
            return
        plain = gap(accuracy(evidence, "iterative"), accuracy(evidence, "doubled"), self.least)
        others = still(evidence, (r for r in evidence.correct if r not in ("doubled", "unbounded")))
        alone = gap(others, after(evidence, others, accuracy(evidence, "doubled")), self.least)
        claim = f"{percent(plain.first)} are correct, with twice the steps and restarts {percent(plain.second)}."
        shown = numbers(plain, worst_case_drop=alone.drop, worst_case_limit=alone.delta)
        advice = "Use more steps and restarts until doubling them changes nothing (--budget thorough)."
        if alone.large:
            yield finding(self, "red", claim, shown, advice, severity="medium", voids=True)
        elif plain.large:
            yield finding(self, "warn", claim, shown, advice, severity="low")
        else:
            yield finding(self, "ok", claim, shown)
