"""ACT-M24: a defended model faced the attacks that its defenses say it must face (Tramer et al. 2020).

not done         one of them was not made under this threat: the defense was not attacked as it should be
warn             they break more than delta of all rows that the standard gradient attacks leave; the worst case
                 counts them, but numbers without them would flatter the defense
not applicable   no defense of the model names an attack of its own that works under this threat
ok               otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import after, finding, gap, numbers, percent, still
from actsec.types import GRADIENT, Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class AdaptiveAttacks:
    """The attacks that a defense names, against the standard ones."""

    least: float = 0.02

    rule: ClassVar[str] = "ACT-M24"
    title: ClassVar[str] = "Defenses faced their own attacks"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = True

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if not evidence.adaptive:
            yield finding(self, "not_applicable", "No defense of this model names an attack of its own here.")
            return
        if missing := [name for name, correct in evidence.adaptive.items() if correct is None]:
            claim = f"Not done: {', '.join(missing)}, which the defense says it must face, was not run."
            yield finding(self, "not_done", claim, advice="Resume the run, or add the attack to the plan.")
            return
        made = ", ".join(evidence.adaptive)
        left = [correct for correct in evidence.adaptive.values() if correct is not None]
        standard = still(evidence, GRADIENT)
        if len(standard) < 2:
            yield finding(self, "not_done", f"Not done: {len(standard)} images say nothing.")
            return
        alone = gap(standard, after(evidence, standard, *left), self.least)
        claim = f"{made}: {percent(alone.drop)} broken that the standard gradient attacks left."
        if alone.large:
            advice = "Never state this model's robustness without them."
            yield finding(self, "warn", claim, numbers(alone), advice, severity="medium")
        else:
            yield finding(self, "ok", claim, numbers(alone))
