"""What rules about activation health read, and how one is written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from actsec.result import Calibration, Problem, Share, SiteHealth
from actsec.vitals import Cause, Vitals


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkup before anything is said of it.

    steep names the sites that saturate above, where saturation is no matter of course; ratio is G; n images were
    watched. vitals is None where only sites and confidence were measured: rules that need it are silent then.
    """

    sites: tuple[SiteHealth, ...]
    steep: frozenset[str]
    unresolved: tuple[str, ...]
    ratio: float | None
    accuracy: Share
    calibration: Calibration
    n: int
    vitals: Vitals | None = None

    def causes(self, of: Literal["dead", "saturated"]) -> dict[str, Cause]:
        """Why units are so, of every site for which that was looked for."""
        units = () if self.vitals is None else self.vitals.units
        return {each.site: each.cause for each in units if each.cause is not None and each.cause.of == of}


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
