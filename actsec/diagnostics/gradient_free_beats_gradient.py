"""ACT-M06: gradient attacks leave nothing for a search that sees only logits (Athalye et al. 2018).

    red, voids   it breaks more than delta of all rows that every gradient attack of the audit together leaves: the
                 gradient attacks miss what is there, and more searching would find more
    warn         it is stronger than the cross-entropy attack by more than delta, but the other gradient attacks had
                 already broken those rows
    ok           otherwise

The one rule that catches functions whose gradients are right everywhere and useless, such as k-winners-take-all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import beside_gradients, unanswerable
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class GradientFreeBeatsGradient:
    """A search without gradients against the attacks that follow them."""

    least: float = 0.02

    rule: ClassVar[str] = "ACT-M06"
    title: ClassVar[str] = "Gradients beat searching without them"
    roles: ClassVar[tuple[str, ...]] = ("iterative", "gradient_free")
    masks: ClassVar[tuple[Status, ...]] = ("red",)
    essential: ClassVar[bool] = True
    dig: ClassVar[str] = "square(queries=5000)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        yield unanswerable(self, evidence) or beside_gradients(self, evidence, "gradient_free", self.least)
