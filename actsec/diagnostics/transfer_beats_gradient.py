"""ACT-M07: gradient attacks leave nothing for inputs made on another model (Athalye et al. 2018).

    red, voids   it breaks more than delta of all rows that every gradient attack of the audit together leaves: the
                 gradient attacks miss what is there, and more searching would find more
    warn         it is stronger than the cross-entropy attack by more than delta, but the other gradient attacks had
                 already broken those rows
    ok           otherwise

Needs a second model of the same task; without one it is not done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import beside_gradients, unanswerable
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class TransferBeatsGradient:
    """Inputs transferred from another model against the attacks that follow this one's gradients."""

    least: float = 0.02

    rule: ClassVar[str] = "ACT-M07"
    title: ClassVar[str] = "Gradients beat attacks made on another model"
    roles: ClassVar[tuple[str, ...]] = ("iterative", "transfer")
    masks: ClassVar[tuple[Status, ...]] = ("red",)
    essential: ClassVar[bool] = False
    dig: ClassVar[str] = "square(queries=5000)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        yield unanswerable(self, evidence) or beside_gradients(self, evidence, "transfer", self.least)
