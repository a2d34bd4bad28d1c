"""ACT-M20: the forward pass does not differentiate anything itself (AutoAttack, ``check_dynamic``).

A model that optimises at test time (purification, a detector's own gradient) runs autograd inside its forward pass. Its
input gradient then needs second derivatives, which most such models cut off; and each answer is the end of a search.

    warn   autograd was called during a forward pass. Never red: what that does to attacks is measured by ACT-M01, M06
           and M09
    ok     otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import finding, unprobed
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class AutogradInside:
    """Calls of autograd within a forward pass."""

    limit: int = 0

    rule: ClassVar[str] = "ACT-M20"
    title: ClassVar[str] = "The forward pass is a plain one"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = False
    dig: ClassVar[str] = "averaged_differences(steps=100, directions=50)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if (missing := unprobed(self, evidence, "autograd_inside")) is not None:
            yield missing
            return
        calls = int(evidence.probe["autograd_inside"])
        numbers = {"value": calls, "limit": self.limit}
        if calls > self.limit:
            claim = f"The model calls autograd {calls} times within one forward pass."
            advice = "Attack the whole of it by score, and the model without this step by gradient (transfer)."
            yield finding(self, "warn", claim, numbers, advice, severity="medium")
        else:
            yield finding(self, "ok", "No autograd runs inside the forward pass.", numbers)
