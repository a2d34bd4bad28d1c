"""ACT-A03: units of an activation call that stand in a flat tail.

Saturated: the slope is below 5 % of its largest (tanh beyond 2.18, sigmoid beyond 4.36; computed for every activation).
Only activations that saturate above are judged: half of leaky_relu's line is that flat by nature.

    medium   more than half of a call's units are saturated, mean over images

The cause is decided by rule: bias shift; initialisation, where fresh weights saturate at least 0.6 times as much, or
the weights are longer than fresh ones and as evenly scattered; scale of the inputs, where that is so at the first site
and the inputs' root mean square is 3 or more; learning rate or outliers in the training data, where the weights have
grown in few directions; or ``cannot tell``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.result import Problem
from actsec.symptoms._seen import Seen, others, said


@dataclass(frozen=True, slots=True)
class SaturatedUnits:
    """Units that pass next to no gradient."""

    most: float = 0.5

    rule: ClassVar[str] = "ACT-A03"
    title: ClassVar[str] = "Units stand where the activation is steep"

    def __call__(self, seen: Seen) -> Iterator[Problem]:
        flat = [site for site in seen.sites if site.name in seen.steep and (site.saturated or 0) > self.most]
        if not flat:
            return
        worst = max(flat, key=lambda site: site.saturated or 0)
        claim = f"{worst.saturated or 0:.0%} of the units of site {worst.name} are saturated on average; {others(flat)}"
        causes = seen.causes("saturated")
        first = next((site for site in flat if site.name in causes), None)
        if first is None:
            mend = "Usual: large weights, inputs of another scale than trained. Compare: actsec study activations."
            yield said(self, "medium", claim, mend, "cannot tell", "weights were not looked at")
            return
        why = causes[first.name]
        where = "" if len(flat) == 1 else f"{first.name}, the first of them: "
        yield said(self, "medium", claim, why.mend, why.name, f"{where}{why.evidence}")
