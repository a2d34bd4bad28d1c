"""ACT-M19: the attacks that a defended model stood up to break the model without its defenses (Pintor et al. 2022).

An attack that does not break the undefended twin is too weak to tell what the defense adds.

    warn             the gradient attacks leave more than half of what the twin gets right untouched, so that what the
                     defended model keeps may be the attack's failure. Never red: the twin may be robust itself
    not applicable   the model has no defenses, so there is no twin
    ok               otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import finding, lower_bound, percent, unanswerable
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class TwinStands:
    """The same attacks on the model without its defenses."""

    limit: float = 0.5

    rule: ClassVar[str] = "ACT-M19"
    title: ClassVar[str] = "The undefended twin falls"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = False
    dig: ClassVar[str] = "cascade(steps=50, targets=9, restarts=50, queries=1000)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if (missing := unanswerable(self, evidence, follows=True)) is not None:
            yield missing
            return
        if evidence.twin is None:
            yield finding(self, "not_applicable", "Without defenses there is no undefended twin to compare with.")
            return
        k, n = int(evidence.twin.sum()), len(evidence.twin)
        numbers = {"value": k / max(n, 1), "limit": self.limit, "n": n, "k": k}
        claim = f"The same attacks leave {percent(k / max(n, 1))} of what the undefended twin gets right."
        if n and lower_bound(k, n) > self.limit:
            advice = "Attack harder before crediting the defense: --budget thorough, or a larger eps."
            yield finding(self, "warn", claim, numbers, advice, severity="low")
        elif not n:
            yield finding(self, "not_done", "Not done: the undefended twin was not attacked on these examples.")
        else:
            yield finding(self, "ok", claim, numbers)
