"""ACT-M12: the model looks at its input, and its outputs are numbers.

red, voids   logits that are not finite, or that are the same for every probed input: what cannot change its answer
             cannot be fooled, and proves nothing
warn         one class for every probed input although several occur
ok           otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import finding, percent, unprobed
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class ConstantOutput:
    """Outputs that do not depend on the input, or are not finite."""

    limit: float = 1e-6

    rule: ClassVar[str] = "ACT-M12"
    title: ClassVar[str] = "The output depends on the input"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = True

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        probe = evidence.probe
        if (missing := unprobed(self, evidence, "non_finite_outputs")) is not None:
            yield missing
            return
        numbers = {"value": probe.get("output_spread"), "limit": self.limit, "n": int(probe["n"])}
        if probe["non_finite_outputs"] > 0:
            claim = f"The logits of {percent(probe['non_finite_outputs'])} of inputs are not finite."
            advice = "Look for NaN in the weights, or an overflow in the layers."
            yield finding(self, "red", claim, numbers, advice, severity="high", voids=True)
        elif probe["n"] < 2:
            yield finding(self, "not_done", "Not done: one input cannot show whether outputs differ.", numbers)
        elif probe["output_spread"] <= self.limit:
            claim = f"The logits are the same for all {probe['n']} probed inputs."
            advice = "The network is dead or its input is blanked: see the activation health of its sites."
            yield finding(self, "red", claim, numbers, advice, severity="high", voids=True)
        elif probe["classes_decided"] == 1 and probe["classes_present"] > 1:
            claim = f"All {probe['n']} probed inputs get the same class, although {probe['classes_present']} occur."
            yield finding(self, "warn", claim, numbers, "Check normalisation and labels.", severity="high")
        else:
            yield finding(self, "ok", "The logits differ between inputs.", numbers)
