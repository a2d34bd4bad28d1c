"""ACT-M03: one gradient step breaks nothing that many steps do not (Athalye et al. 2018, section 3.1).

red, voids   the single step breaks more than delta of all rows that the iterative attacks of the audit together
             leave: the iterative search is failing, so the worst case is too high
warn         accuracy after the iterative attack exceeds that after the single step by more than delta, but the
             other iterative attacks make up for it
ok           otherwise

Not applicable in l1: there the single step fills features to the box at once, which is best where the model is linear,
and a step of PGD moves one feature, so that either may win on an honest model (3 of 60 rows of an adversarially trained
MLP on digits at l1 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import accuracy, after, finding, gap, numbers, percent, still, unanswerable
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class SingleStepBeatsIterative:
    """The single-step attack against the iterative ones."""

    least: float = 0.02

    rule: ClassVar[str] = "ACT-M03"
    title: ClassVar[str] = "Many steps are at least as strong as one"
    roles: ClassVar[tuple[str, ...]] = ("single_step", "iterative")
    masks: ClassVar[tuple[Status, ...]] = ("warn", "red")
    essential: ClassVar[bool] = True
    dig: ClassVar[str] = "apgd(steps=100, restarts=5)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if (missing := unanswerable(self, evidence)) is not None:
            yield missing
            return
        if evidence.threat.norm == "l1":
            claim = "In l1 a single step fills features to the box and later steps move one: either may win."
            yield finding(self, "not_applicable", claim)
            return
        plain = gap(accuracy(evidence, "iterative"), accuracy(evidence, "single_step"), self.least)
        searched = still(evidence, ("iterative", "doubled", "margin"))
        alone = gap(searched, after(evidence, searched, accuracy(evidence, "single_step")), self.least)
        claim = f"After many steps {percent(plain.first)} are correct, after one step {percent(plain.second)}."
        shown = numbers(plain, only_single_step=alone.drop, only_single_step_limit=alone.delta)
        advice = "Look at the loss along the search: a step size too large, or gradients that mislead."
        if alone.large:
            claim += f" One step breaks {percent(alone.drop)} that no iterative attack breaks."
            yield finding(self, "red", claim, shown, advice, severity="high", voids=True)
        elif plain.large:
            yield finding(self, "warn", claim, shown, advice, severity="medium")
        else:
            yield finding(self, "ok", claim, shown)
