"""ACT-M18: the score is smooth enough around an input to be followed (Pintor et al. 2022, "unstable predictions").

The mean relative change of the margin at 8 random points within half the budget, each capped at 1.

    warn   above the limit: the landscape is noisy at the scale of the budget, so that gradient steps tell little of
           what lies ahead. Never red: a model at its decision boundary looks so too, and what it does to attacks is
           measured by ACT-M06
    ok     otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import finding, unprobed
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class UnstablePredictions:
    """Scores around an input against the score there."""

    limit: float = 0.5

    rule: ClassVar[str] = "ACT-M18"
    title: ClassVar[str] = "Predictions are stable around an input"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = False
    dig: ClassVar[str] = "averaged_differences(steps=100, directions=50)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if (missing := unprobed(self, evidence, "unstable_predictions")) is not None:
            yield missing
            return
        value = float(evidence.probe["unstable_predictions"])
        numbers = {"value": value, "limit": self.limit, "n": int(evidence.probe["n"])}
        claim = f"Random points within half the budget change the margin by {percent_of(value)} of itself."
        if value > self.limit:
            advice = "Average gradients over the neighbourhood, or search without them."
            yield finding(self, "warn", claim, numbers, advice, severity="low")
        else:
            yield finding(self, "ok", claim, numbers)


def percent_of(value: float) -> str:
    """0.317 as ``32 %``."""
    return f"{100 * value:.0f} %"
