"""ACT-A06: no activation that sees the input was found.

    high   the model calls none that is known, or only gates, constants and its output

The cause is how the model is written: it is linear, or its activations are hidden (see ACT-A02).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.result import Problem
from actsec.symptoms._seen import Seen, said


@dataclass(frozen=True, slots=True)
class NoActivation:
    """Nothing to look at."""

    rule: ClassVar[str] = "ACT-A06"
    title: ClassVar[str] = "There are activations"

    def __call__(self, seen: Seen) -> Iterator[Problem]:
        if not seen.sites:
            claim = "no activation that sees the input was found"
            mend = "Is the model linear? See actsec diagnose --architecture."
            yield said(self, "high", claim, mend, "how the model is written", "found in the calls of one pass")
