"""ACT-M13: the model returns logits, not probabilities.

warn   every output lies in [0, 1] and each row sums to 1 (or one output a row lies in [0, 1]): a softmax is applied
       twice, so confidences and calibration are wrong and cross-entropy is a poor guide. Decisions are not changed,
       and what that does to attacks is measured by the other rules
ok     otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import finding, unprobed
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class ProbabilitiesGiven:
    """Outputs that are probabilities."""

    rule: ClassVar[str] = "ACT-M13"
    title: ClassVar[str] = "The model returns logits"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = False

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if (missing := unprobed(self, evidence, "looks_like_probabilities")) is not None:
            yield missing
            return
        numbers = {"n": int(evidence.probe["n"])}
        if evidence.probe["looks_like_probabilities"]:
            claim = "Every output lies in [0, 1] and sums to 1: these are probabilities, not logits."
            advice = "Give the model without its softmax or sigmoid; confidences here are of a softmax applied twice."
            yield finding(self, "warn", claim, numbers, advice, severity="medium")
        else:
            yield finding(self, "ok", "The outputs are logits.", numbers)
