"""ACT-A00: NaN or infinity at an activation.

    high   some pre-activation is not finite. Its site has no shares: a NaN is neither dead nor alive (NaN <= 0 is
           false, so that a broken model would read as one without a dead unit)

The cause is sought in the weights before it alone: the first site in call order that is broken is where it begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.result import Problem
from actsec.symptoms._seen import Seen, said


@dataclass(frozen=True, slots=True)
class NotFinite:
    """Values that are not finite."""

    rule: ClassVar[str] = "ACT-A00"
    title: ClassVar[str] = "Every value is finite"
    mend: ClassVar[str] = (
        "Look for NaN in the weights before it, overflow in exp; train anew with clipped gradients: "
        "actsec defend 'stable_training(start=scratch, clip_norm=5)'."
    )

    def __call__(self, seen: Seen) -> Iterator[Problem]:
        if broken := [site.name for site in seen.sites if not site.finite]:
            claim = f"{broken[0]} gives values that are not finite, {len(broken)} of {len(seen.sites)} sites do"
            yield said(self, "high", claim, self.mend, "cannot tell", f"{broken[0]} is the first in call order")
