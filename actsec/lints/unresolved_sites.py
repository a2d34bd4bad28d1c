"""ACT-L09: calls that act as activations and cannot be watched or swapped as such.

    low      at least one; dead units and saturation there are not counted, and `swap` leaves them

`actsec diagnose` says the same of the trained model as ACT-A02.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.health.architecture import Architecture
from actsec.lints._said import said
from actsec.result import Problem


@dataclass(frozen=True, slots=True)
class UnresolvedSites:
    """Activations that cannot be watched."""

    rule: ClassVar[str] = "ACT-L09"
    title: ClassVar[str] = "Every activation is known"

    def __call__(self, network: Architecture) -> Iterator[Problem]:
        if network.unresolved:
            count = len(network.unresolved)
            claim = f"{count} call{'s' * (count > 1)} cannot be watched or swapped: {network.unresolved[0]}"
            yield said(self, "low", claim, "Write them as torch's own activation functions or modules.")
