"""ACT-M22: the smallest changes that gradients find are smaller than those that chance finds.

For threats without an eps. Noise of shrinking size around each input is judged like any attack.

    red, voids   noise fools more than delta of all rows at a smaller size than every gradient search found there
    ok           otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import comes_nearer
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class NoiseComesNearer:
    """Random noise against the searches for the smallest change."""

    least: float = 0.02
    by: float = 1.0

    rule: ClassVar[str] = "ACT-M22"
    title: ClassVar[str] = "Chance comes no nearer than gradients"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ("red",)
    essential: ClassVar[bool] = False
    dig: ClassVar[str] = "noise(draws=10000)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        yield comes_nearer(self, evidence, "noise", self.by, self.least)
