"""ACT-M10: the gradient still points the same way 2 % of the box further in a random direction.

    warn   the median cosine between the margin's gradients at x and at x + U(-0.02, 0.02) of the box's width is below
           0.2: single steps overshoot, and attacks need more and smaller ones. Never red: a low value slows attacks
           down, it does not stop them
    ok     otherwise

Measured: 1.0 for small networks on digits, 0.51 for a ResNet-20 trained without adversaries on CIFAR-10, 0.01 where the
backward pass adds noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import finding, unprobed
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class GradientStability:
    """The gradient here against the gradient nearby."""

    least: float = 0.2

    rule: ClassVar[str] = "ACT-M10"
    title: ClassVar[str] = "Gradients agree with their neighbours"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = False
    dig: ClassVar[str] = "apgd(steps=200, restarts=5)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if (missing := unprobed(self, evidence, "gradient_cosine")) is not None:
            yield missing
            return
        value = float(evidence.probe["gradient_cosine"])
        numbers = {"value": value, "limit": self.least, "n": int(evidence.probe["gradient_rows"])}
        claim = f"The median cosine between the gradient at an input and beside it is {value:.3f}."
        if value < self.least:
            yield finding(self, "warn", claim, numbers, "Use more, smaller steps and several restarts.", severity="low")
        else:
            yield finding(self, "ok", claim, numbers)
