"""How a finding of activation health is written down, and what the rules read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from actsec.health.seen import Seen
from actsec.result import Problem, SiteHealth

__all__ = ["Seen", "Symptom", "others", "said"]


class Symptom(Protocol):
    """A rule about activation health."""

    @property
    def rule(self) -> str: ...


def said(
    symptom: Symptom, severity: Literal["low", "medium", "high"], claim: str, mend: str, cause: str = "", why: str = ""
) -> Problem:
    """A finding; which variant it is about is for the caller to say."""
    return Problem(symptom.rule, severity, "", claim, mend, cause, why)


def others(sites: Sequence[SiteHealth]) -> str:
    """How many sites are over a limit."""
    return "no other site is" if len(sites) == 1 else f"{len(sites)} sites are over the limit"
