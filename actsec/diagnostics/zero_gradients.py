"""ACT-M01: input gradients exist and are not zero where the attack needs them.

Counted in float32 on correctly classified rows, exactly zero, separately for cross-entropy and for the margin (Carlini
& Wagner 2017). A share is above the limit of 1 % when the lower end of its 95 % interval is.

    red, voids   no gradient at all (a broken graph), gradients that are not finite, or a margin gradient that is zero:
                 no gradient attack of the audit could search there
    red, voids   cross-entropy gradients zero and no margin attack made: nothing in the audit saw past it
    warn         cross-entropy gradients zero, the margin's not, and the margin attack made: the model hides from
                 cross-entropy alone, and the worst case already counts the margin attack
    ok           otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import finding, lower_bound, percent
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class ZeroGradients:
    """Zero, missing or non-finite input gradients."""

    limit: float = 0.01

    rule: ClassVar[str] = "ACT-M01"
    title: ClassVar[str] = "Gradients exist"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ("warn", "red")
    essential: ClassVar[bool] = True
    dig: ClassVar[str] = "bpda"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if "broken_graph" not in evidence.probe:
            yield finding(self, "not_done", "Not done: the model was not probed.")
            return
        probe = evidence.probe
        advice = "Read the gradient-free and transfer numbers instead, or give a differentiable stand-in of the layer."
        if probe["broken_graph"]:
            claim = f"No gradient reaches the input: {probe['broken_graph']}."
            yield finding(self, "red", claim, {"n": probe["n"]}, advice, severity="high", voids=True)
            return
        n = int(probe["gradient_rows"])
        numbers = {
            "value": probe["zero_margin_gradients"],
            "cross_entropy": probe["zero_cross_entropy_gradients"],
            "non_finite": probe["non_finite_gradients"],
            "limit": self.limit,
            "n": n,
        }
        if self._above(probe["non_finite_gradients"], n):
            claim = f"{percent(probe['non_finite_gradients'])} of input gradients are not finite: no attack can follow."
            yield finding(self, "red", claim, numbers, advice, severity="high", voids=True)
        elif self._above(probe["zero_margin_gradients"], n):
            share = percent(probe["zero_margin_gradients"])
            claim = f"The margin's input gradient is exactly zero for {share} of inputs."
            yield finding(self, "red", claim, numbers, advice, severity="high", voids=True)
        elif self._above(probe["zero_cross_entropy_gradients"], n):
            share = percent(probe["zero_cross_entropy_gradients"])
            claim = f"The cross-entropy's input gradient is exactly zero for {share} of inputs: the softmax saturates."
            seen = "margin" in evidence.correct
            advice = "Read the margin attack's number; cross-entropy attacks are blind here."
            if not seen:
                advice = "Add a margin attack; cross-entropy attacks are blind here."
            yield finding(self, "warn" if seen else "red", claim, numbers, advice, severity="high", voids=not seen)
        else:
            yield finding(self, "ok", "Input gradients are finite and not zero.", numbers)

    def _above(self, value: float, n: int) -> bool:
        return value > self.limit and lower_bound(round(value * n), n) > self.limit
