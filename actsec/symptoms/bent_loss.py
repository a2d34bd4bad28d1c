"""ACT-A09: the gradient turns within a step that changes nothing.

g(x) and g(x + d), for a random d of at most 0.02 of the box a number: their cosine is near 1 where the loss is straight
over the step, as a single-step attack and every explanation by gradients suppose. Beside it stands
|L(x+d) - L(x) - g.d| over the larger of |L(x+d) - L(x)| and |g.d|: 0 where the loss is linear there.

    low   the median cosine is below 0.5

Noise in the backward pass, randomised models and shattered gradients do this; so do steep but honest models. Which it
is, the checkup cannot tell: the masking checks of an audit can.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.result import Problem
from actsec.symptoms._seen import Seen, said


@dataclass(frozen=True, slots=True)
class BentLoss:
    """Gradients that say little about the next step."""

    least: float = 0.5

    rule: ClassVar[str] = "ACT-A09"
    title: ClassVar[str] = "The loss is locally straight"

    def __call__(self, seen: Seen) -> Iterator[Problem]:
        found = None if seen.vitals is None else seen.vitals.inputs
        if found is None or found.turn is None or found.turn.median >= self.least:
            return
        claim = f"the gradient turns: median cosine {found.turn.median:.2f} over a random step of {found.reach:g}"
        why = "" if found.bend is None else f"the loss departs from its tangent by {found.bend.median:.0%}, median"
        yield said(self, "low", claim, "actsec audit tells masking from steepness.", "cannot tell", why)
