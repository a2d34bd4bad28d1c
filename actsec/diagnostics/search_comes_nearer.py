"""ACT-M23: the smallest changes that gradients find are no larger than those that a search by score finds.

For threats without an eps. A search that sees only logits (averaged differences) stops at a crude size, so that it must
come nearer by a tenth to count.

    red, voids   it does so for more than delta of all rows: the gradient searches miss what is there
    ok           otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import comes_nearer
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class SearchComesNearer:
    """A search without gradients against the searches that follow them, without an eps."""

    least: float = 0.02
    by: float = 0.9

    rule: ClassVar[str] = "ACT-M23"
    title: ClassVar[str] = "Searching by score comes no nearer than gradients"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ("red",)
    essential: ClassVar[bool] = False
    dig: ClassVar[str] = "averaged_differences(steps=100, directions=50)"

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        yield comes_nearer(self, evidence, "gradient_free", self.by, self.least)
