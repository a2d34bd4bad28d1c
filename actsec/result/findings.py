"""What is wrong, what was asked for, and what a run is evidence of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Taxon:
    """What a catalog calls the thing a finding is about. edition is that of the catalog in which name was read."""

    scheme: Literal["ATLAS", "OWASP-ML", "NISTAML", "CWE"]
    edition: str
    id: str
    name: str
    url: str


@dataclass(frozen=True, slots=True)
class ChecklistRow:
    """An item of the evaluation checklist of Carlini et al. 2019. evidence is empty unless it is done."""

    number: int
    item: str
    status: Literal["done", "not done", "not applicable"]
    evidence: str


@dataclass(frozen=True, slots=True)
class EvidenceRow:
    """What this run shows of a requirement, in words with the number; it never says that a requirement is met."""

    framework: str
    reference: str
    about: str
    url: str
    status: Literal["measured", "not done"]
    evidence: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding about the model, its data or the audit itself.

    cause and evidence are those of activation health (ACT-A): why it is so, by rule, and what was measured.
    """

    rule: str
    severity: Literal["low", "medium", "high"]
    variant: str
    claim: str
    advice: str
    cause: str = ""
    evidence: str = ""
    taxa: tuple[Taxon, ...] = ()


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate and how it was decided; n is what its value was counted on."""

    gate: str
    variant: str
    value: float | None
    low: float | None
    high: float | None
    limit: float
    outcome: Literal["passed", "failed", "no verdict"]
    why: str
    n: int | None = None
    samples: int | None = None
    """Without a verdict for want of samples: about how many would decide, if the value stays what it is."""


@dataclass(frozen=True, slots=True)
class AcceptedFinding:
    """A finding that the plan accepts up to and with a day (YYYY-MM-DD): it changes no number and no picture.

    state is as of the day the report was made: only what is ``accepted`` is out of the gates.
    """

    finding: str
    until: str
    reason: str
    state: Literal["accepted", "expired", "nothing found"]
