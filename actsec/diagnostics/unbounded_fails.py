"""ACT-M05: without a budget every input can be turned into any other, so an attack must reach 0 %.

red, voids   more than 1 % of all rows are correct after it (the lower end of the 95 % interval is above the limit):
             the gradients do not lead to inputs that are known to exist (Athalye et al. 2018, section 3.1)
warn         more than 1 % of so few rows that it may be chance
not applicable   more than 1 %, where the rules of a table keep rows from being turned into any other
ok           otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import accuracy, finding, lower_bound, percent, unanswerable
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class UnboundedFails:
    """The attack without a budget."""

    limit: float = 0.01

    rule: ClassVar[str] = "ACT-M05"
    title: ClassVar[str] = "Without a budget the attack always succeeds"
    roles: ClassVar[tuple[str, ...]] = ("unbounded",)
    masks: ClassVar[tuple[Status, ...]] = ("red",)
    essential: ClassVar[bool] = True
    dig: ClassVar[str] = "averaged_differences(steps=100, directions=50)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if (missing := unanswerable(self, evidence)) is not None:
            yield missing
            return
        left = accuracy(evidence, "unbounded")
        k, n = int((left > 0.5).sum()), len(left)
        claim = f"With the whole box as budget {k} of {n} inputs ({percent(k / n)}) are still correct."
        numbers = {"value": k / n, "limit": self.limit, "n": n, "k": k}
        if evidence.confined and k / n > self.limit:
            claim += " Columns that may not change freely leave no input that is known to exist."
            yield finding(self, "not_applicable", claim, numbers)
            return
        advice = "The gradients mislead the attack; believe the gradient-free number."
        if lower_bound(k, n) > self.limit:
            yield finding(self, "red", claim, numbers, advice, severity="high", voids=True)
        elif k / n > self.limit:
            yield finding(self, "warn", claim, numbers, "Test more examples.", severity="low")
        else:
            yield finding(self, "ok", claim, numbers)
