"""ACT-M08: gradient attacks leave nothing for random noise of the same budget (Athalye et al. 2018).

    red, voids   it breaks more than delta of all rows that every gradient attack of the audit together leaves: the
                 gradient attacks miss what is there, and more searching would find more
    warn         it is stronger than the cross-entropy attack by more than delta, but the other gradient attacks had
                 already broken those rows
    ok           otherwise

Noise is the weakest opponent there is: losing to it leaves nothing to believe. In l0, where searches follow no
gradient, it is held against the searches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import (
    accuracy,
    after,
    beside_gradients,
    finding,
    gap,
    numbers,
    percent,
    still,
    unanswerable,
)
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
    dig: ClassVar[str] = "noise(draws=10000)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if evidence.threat.norm == "l0" and {"attack", "noise"} <= set(evidence.correct) and len(evidence.clean) > 1:
            yield self._beside_search(evidence)
            return
        yield unanswerable(self, evidence) or beside_gradients(self, evidence, "noise", self.least)

    def _beside_search(self, evidence: Evidence) -> Finding:
        """In l0 the searches follow no gradient; noise must break nothing that they leave."""
        found = still(evidence, ("attack",))
        alone = gap(found, after(evidence, found, accuracy(evidence, "noise")), self.least)
        claim = f"After the search {percent(alone.first)} are correct; noise breaks {percent(alone.drop)} that it left."
        if not alone.large:
            return finding(self, "ok", claim, numbers(alone))
        advice = "Search longer: chance finds what the search does not."
        return finding(self, "red", claim, numbers(alone), advice, severity="high", voids=True)
