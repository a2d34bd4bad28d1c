"""ACT-M11: five forward passes of the same inputs agree.

Compared on logits divided by their row's length; above 1e-4 they differ.

    red, voids   they differ and the target is not declared stochastic: each success and each failure is one lucky draw,
                 and attacks followed single noisy gradients
    warn         they differ and the target is declared stochastic: gradients were averaged over draws (EOT, Athalye et
                 al. 2018) and accuracies are means over draws; the state is randomised
    ok           otherwise
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.diagnostics._evidence import finding, unprobed
from actsec.types import Evidence, Finding, Status


@dataclass(frozen=True, slots=True)
class NotRepeatable:
    """Repeated forward passes against each other."""

    limit: float = 1e-4

    rule: ClassVar[str] = "ACT-M11"
    title: ClassVar[str] = "The same input gives the same output"
    roles: ClassVar[tuple[str, ...]] = ()
    masks: ClassVar[tuple[Status, ...]] = ()
    essential: ClassVar[bool] = True

    def __call__(self, evidence: Evidence) -> Iterator[Finding]:
        if (missing := unprobed(self, evidence, "repeat_difference")) is not None:
            yield missing
            return
        value = float(evidence.probe["repeat_difference"])
        numbers = {"value": value, "limit": self.limit, "n": int(evidence.probe["n"])}
        if value <= self.limit:
            yield finding(self, "ok", "Five forward passes agree.", numbers)
        elif evidence.stochastic:
            claim = f"Forward passes differ by {value:.2g} (normalised logits): attacks averaged over draws."
            advice = "Read accuracies as means over draws; state them as such."
            yield finding(self, "warn", claim, numbers, advice, severity="low")
        else:
            claim = f"Forward passes differ by {value:.2g} (normalised logits), undeclared."
            advice = "Declare the model stochastic, so that gradients and accuracies are averaged over draws."
            yield finding(self, "red", claim, numbers, advice, severity="high", voids=True)
