"""ACT-M09: the gradient that autograd gives is the slope that the model has.

For each correctly classified row the margin's slope along 16 random directions is taken twice: by autograd, and by a
central difference of two forwards. The cosine between a row's two lists of slopes is 1 for an honest model, up to
curvature; the median over rows is judged.

    red, voids       median cosine below 0.9: the backward pass does not belong to the forward pass (straight-through
                     layers, noise or clipping added to gradients), or the function is a staircase
    not applicable   forward passes differ: the slope of a random function is not defined
    ok               otherwise

Blind spot: functions that are honest in the small and jump in the large (k-winners-take-all). ACT-M06 is for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import finding, unprobed
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class FiniteDifferences:
    """Autograd against finite differences."""

    least: float = 0.9

    rule: ClassVar[str] = "ACT-M09"
    title: ClassVar[str] = "Gradients are the model's own slopes"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ("red",)
    essential: ClassVar[bool] = True
    dig: ClassVar[str] = "averaged_differences(steps=100, directions=50)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        probe = evidence.probe
        if evidence.stochastic or probe.get("repeatable") is False:
            yield finding(self, "not_applicable", "Forward passes differ: a random function has no slope to compare.")
            return
        if (missing := unprobed(self, evidence, "slope_cosine")) is not None:
            yield missing
            return
        value = float(probe["slope_cosine"])
        numbers = {"value": value, "limit": self.least, "n": int(probe["slope_rows"])}
        claim = f"The median cosine between autograd's slopes and measured ones is {value:.3f}."
        if value < self.least:
            advice = "Gradient attacks follow a slope that is not the model's; believe the gradient-free number."
            yield finding(self, "red", claim, numbers, advice, severity="high", voids=True)
        else:
            yield finding(self, "ok", claim, numbers)
