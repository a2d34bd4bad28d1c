"""ACT-M15: the model answers every candidate with numbers.

A candidate whose logits are not finite is no success, for nobody can say what the model decided. So a model that
answers NaN where it is attacked looks robust there.

    red, voids   images count as robust though at least one candidate within the threat was answered without numbers
    ok           otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import finding
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Non-finite logits under attack."""

    rule: ClassVar[str] = "ACT-M15"
    title: ClassVar[str] = "Every candidate is answered"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = False
    dig: ClassVar[str] = "square(queries=5000)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if evidence.unanswered is None:
            yield finding(self, "not_done", "Not done: no attack has finished.")
            return
        numbers = {"value": evidence.unanswered, "limit": 0, "n": len(evidence.clean)}
        if not evidence.unanswered:
            yield finding(self, "ok", "The model answered every candidate with finite logits.", numbers)
            return
        claim = f"{evidence.unanswered} images count as robust though the model answered NaN or infinity under attack."
        advice = "Find where the model overflows (exp, division, a square root at 0), and bound it there."
        yield finding(self, "red", claim, numbers, advice, severity="high", voids=True)
