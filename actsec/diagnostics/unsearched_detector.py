"""ACT-M25: what the detector turns away, some attack has been seen to bring past it.

A detector that answers yes or no, or whose score is cut off from the input, gives a gradient attack nothing to follow:
the attack finds inputs that fool the classifier, all are rejected, and the images look robust (Carlini & Wagner 2017,
"Adversarial examples are not easily detected"). A score with a gradient may lead nowhere just as well, and only an
attack that got past the detector shows that it does not.

    red, voids   more than delta of all rows still stand although misclassified candidates of theirs were found and
                 rejected, and no gradient of the detector reaches the input
    warn, voids  the same where there is a gradient, unless of the rows whose misclassified candidates were rejected
                 more fell to accepted ones than stand: the number may be right, and nothing shows it
    ok           otherwise

Without an eps a row stands when no accepted candidate of any size was found; of a target that draws that is one draw's
luck, and the rule is beside the point. A row whose nearest candidates were rejected and one farther away was accepted
counts as fallen: its size, too, may be too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from actsec.diagnostics._evidence import Shares, finding, gap, least_of, numbers, percent, still, unanswerable
from actsec.types import GRADIENT, Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class UnsearchedDetector:
    """Robustness that rests on a detector which no gradient attack can follow."""

    least: float = 0.02

    rule: ClassVar[str] = "ACT-M25"
    title: ClassVar[str] = "The detector was attacked as well"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ("red",)
    essential: ClassVar[bool] = True
    dig: ClassVar[str] = "averaged_differences(steps=100, directions=50)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if evidence.abstained is None:
            yield finding(self, "not_applicable", "The model has no detector that rejects inputs.")
            return
        endless = evidence.threat.eps is None and evidence.threat.goal == "misclassify"
        if endless and evidence.stochastic:
            claim = "The smallest change to a target that draws is one draw's luck."
            yield finding(self, "not_applicable", claim)
            return
        if not endless and (missing := unanswerable(self, evidence)) is not None:
            yield missing
            return
        left = _unfooled(evidence) if endless else _left(evidence)
        if left is None:
            yield finding(self, "not_done", "Not done: no attack was run.", advice="Add one to the plan.")
            return
        turned = np.asarray(evidence.abstained[: len(left)], bool)
        rested = gap(left, least_of(left, ~turned), self.least)
        fell = int(np.sum(turned & (left < 0.5)))
        shown = numbers(rested, rejected_rows=int(turned.sum()), fell=fell)
        claim = (
            f"{percent(rested.drop)} stand although misclassified candidates of theirs were found, all rejected; of "
            f"{int(turned.sum())} such images {fell} fell to candidates that were accepted."
        )
        advice = "Give the detector as a score with a gradient, and believe the number of the model without it."
        if not rested.large or 2 * fell > turned.sum():
            yield finding(self, "ok", claim, shown)
        elif evidence.probe.get("detector_gradient"):
            claim += " Its score has a gradient, and no attack was seen to profit from it."
            yield finding(self, "warn", claim, shown, advice, severity="high", voids=True)
        else:
            claim += " No gradient of the detector reaches the input, so no gradient attack could get past it."
            yield finding(self, "red", claim, shown, advice, severity="high", voids=True)


def _left(evidence: Evidence) -> Shares | None:
    """What the attacks at one eps leave of each row (n,); None where there was none but noise."""
    if not {*GRADIENT, "attack"} & set(evidence.correct):
        return None
    return still(evidence, (*GRADIENT, "gradient_free", "noise", "transfer", "attack"))


def _unfooled(evidence: Evidence) -> Shares | None:
    """Rows (n,) of which no search found an accepted candidate of any size; None where no gradient was followed."""
    if "minimal" not in evidence.sizes:
        return None
    least = np.array(evidence.sizes["minimal"], np.float64)
    for sizes in evidence.sizes.values():
        rows = min(len(least), len(sizes))
        least[:rows] = np.minimum(least[:rows], sizes[:rows])
    return np.isinf(least).astype(np.float64)
