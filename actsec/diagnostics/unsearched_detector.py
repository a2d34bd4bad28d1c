"""ACT-M25: what the detector turns away, some attack has tried to bring past it.

A detector that answers yes or no, or whose score is cut off from the input, gives a gradient attack nothing to follow:
the attack finds inputs that fool the classifier, all are rejected, and the images look robust (Carlini & Wagner 2017,
"Adversarial examples are not easily detected").

    red, voids   no gradient of the detector reaches the input, and more than delta of all rows still stand although
                 misclassified candidates of theirs were found and rejected
    ok           otherwise: attacks on the margin follow the detector's score as well
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from actsec.diagnostics._evidence import GRADIENT, finding, gap, numbers, percent, still, unanswerable
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class UnsearchedDetector:
    """Robustness that rests on a detector which no gradient attack can follow."""

    least: float = 0.02

    rule: ClassVar[str] = "ACT-M25"
    title: ClassVar[str] = "The detector was attacked as well"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ("red",)
    essential: ClassVar[bool] = False
    dig: ClassVar[str] = "square(queries=10000)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if evidence.abstained is None:
            yield finding(self, "not_applicable", "The model has no detector that rejects inputs.")
            return
        if (missing := unanswerable(self, evidence)) is not None:
            yield missing
            return
        if not set(GRADIENT) & set(evidence.correct):
            yield finding(self, "not_done", "Not done: no gradient attack was run.", advice="Add one to the plan.")
            return
        left = still(evidence, (*GRADIENT, "gradient_free", "noise", "transfer"))
        rested = gap(left, left & ~np.asarray(evidence.abstained[: len(left)], bool), self.least)
        claim = f"{percent(rested.drop)} stand only because misclassified candidates of theirs were rejected."
        if evidence.probe.get("detector_gradient"):
            claim += " The detector's score has a gradient, which the attacks on the margin follow."
            yield finding(self, "ok", claim, numbers(rested))
        elif rested.large:
            claim += " No gradient of the detector reaches the input, so no gradient attack could get past it."
            advice = "Give the detector as a score with a gradient, or believe the number without it."
            yield finding(self, "red", claim, numbers(rested), advice, severity="high", voids=True)
        else:
            yield finding(self, "ok", claim, numbers(rested))
