"""ACT-M14: a row's output does not depend on the rows beside it.

Eight inputs are asked once among others and once alone (beside copies of themselves, so that the call has the same
size); compared on logits divided by their row's length. Batch statistics and control flow that looks at the whole batch
make them differ, and then each verdict is one of a batch, not of an input.

    red, voids   they differ by more than 1e-4
    ok           otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import finding, unprobed
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class Company:
    """The output of a row alone against its output among others."""

    limit: float = 1e-4

    rule: ClassVar[str] = "ACT-M14"
    title: ClassVar[str] = "Rows do not depend on each other"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = True

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if evidence.stochastic and "company_difference" in evidence.probe:
            yield finding(self, "not_applicable", "Not applicable: the output differs from call to call.")
            return
        if (missing := unprobed(self, evidence, "company_difference")) is not None:
            yield missing
            return
        value = float(evidence.probe["company_difference"])
        numbers = {"value": value, "limit": self.limit, "n": int(evidence.probe["company_rows"])}
        if value <= self.limit:
            yield finding(self, "ok", "An input gets the same output alone and among others.", numbers)
            return
        claim = f"An input's output changes by {value:.2g} (normalised logits) with the inputs beside it."
        advice = "Look for batch statistics (batch norm in training mode) or control flow that reads the whole batch."
        yield finding(self, "red", claim, numbers, advice, severity="high", voids=True)
