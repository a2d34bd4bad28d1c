"""ACT-M08: gradient attacks leave nothing for random noise of the same budget (Athalye et al. 2018).

    red, voids   it breaks more than delta of all rows that every gradient attack of the audit together leaves: the
                 gradient attacks miss what is there, and more searching would find more
    warn         it is stronger than the cross-entropy attack by more than delta, but the other gradient attacks had
                 already broken those rows
    ok           otherwise

Noise is the weakest opponent there is: losing to it leaves nothing to believe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import beside_gradients, unanswerable
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class NoiseBeatsGradient:
    """Random noise against the attacks that follow gradients."""

    least: float = 0.02

    rule: ClassVar[str] = "ACT-M08"
    title: ClassVar[str] = "Gradients beat random noise"
    roles: ClassVar[tuple[str, ...]] = ("iterative", "noise")
    masks: ClassVar[tuple[Status, ...]] = ("red",)
    essential: ClassVar[bool] = True

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        yield unanswerable(self, evidence) or beside_gradients(self, evidence, "noise", self.least)
