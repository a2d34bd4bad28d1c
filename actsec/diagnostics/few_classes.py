"""ACT-M21: the losses that were climbed exist for this number of classes (AutoAttack, flags).

The difference of logits ratio needs 3 classes, and 4 when it aims at one; below that it is the margin here.

    not done   too few classes for the ratio, and no margin attack was made: cross-entropy was the only guide
    ok         otherwise, saying which loss took its place
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import finding
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class FewClasses:
    """The number of classes against what the losses need."""

    limit: int = 4

    rule: ClassVar[str] = "ACT-M21"
    title: ClassVar[str] = "Every loss exists for so many classes"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = False

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        numbers = {"value": evidence.classes, "limit": self.limit}
        if evidence.classes >= self.limit:
            yield finding(self, "ok", f"All losses exist for {evidence.classes} classes.", numbers)
        elif "margin" in evidence.correct:
            claim = f"With {evidence.classes} classes the difference of logits ratio is replaced by the margin."
            yield finding(self, "ok", claim, numbers)
        else:
            claim = f"Not done: {evidence.classes} classes, and no margin attack was run in the ratio's place."
            yield finding(self, "not_done", claim, numbers, "Add pgd(loss=margin) to the plan.")
