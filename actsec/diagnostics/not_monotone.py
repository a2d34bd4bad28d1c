"""ACT-M16: a larger budget leaves no more examples standing (Carlini et al. 2019, section 5.3).

One and the same gradient attack is run at several eps, each run judged alone. What a smaller ball holds a larger one
holds too, so that an attack that finds it there and misses it here is failing, not the model standing.

    red, voids   runs at smaller eps break more than delta of all rows that every gradient attack at this eps leaves
    warn         accuracy rises by more than delta from one eps to the next, but the other attacks make up for it
    ok           otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from actsec.diagnostics._evidence import after, finding, gap, numbers, percent, still, unanswerable
from actsec.types import GRADIENT, Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class NotMonotone:
    """The same attack at several budgets."""

    least: float = 0.02

    rule: ClassVar[str] = "ACT-M16"
    title: ClassVar[str] = "A larger budget breaks no less"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ("red",)
    essential: ClassVar[bool] = False
    dig: ClassVar[str] = "apgd(steps=100, restarts=5)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if (missing := unanswerable(self, evidence, follows=True)) is not None:
            yield missing
            return
        sizes = sorted(evidence.at)
        if len(sizes) < 2 or len(evidence.clean) < 2:
            yield finding(self, "not_done", "Not done: no gradient attack was run at several eps.")
            return
        rises = [(gap(evidence.at[high], evidence.at[low], self.least), low, high) for low, high in pairwise(sizes)]
        worst, low, high = max(rises, key=lambda rise: rise[0].drop - rise[0].delta)
        claim = f"{percent(worst.second)} are correct at eps {low:.4g} and {percent(worst.first)} at {high:.4g}."
        smaller = [evidence.at[eps] for eps in sizes if eps < (evidence.threat.eps or 0)]
        left = still(evidence, GRADIENT)
        alone = gap(left, after(evidence, left, *smaller), self.least)
        shown = numbers(worst, from_eps=low, to_eps=high, only_smaller=alone.drop, only_smaller_limit=alone.delta)
        advice = "The attack loses its way in the larger ball: more steps, smaller ones, and several restarts."
        if alone.large:
            claim += f" Smaller budgets break {percent(alone.drop)} that no gradient attack breaks here."
            yield finding(self, "red", claim, shown, advice, severity="high", voids=True)
        elif worst.large:
            yield finding(self, "warn", claim, shown, advice, severity="low")
        else:
            yield finding(self, "ok", claim, shown)
