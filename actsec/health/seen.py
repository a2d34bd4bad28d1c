"""What rules about activation health read. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from actsec.health.vitals import Cause, Vitals
from actsec.result import Calibration, Share, SiteHealth


@dataclass(frozen=True, slots=True)
class Seen:
    """A checkup before anything is said of it.

    steep names the sites that saturate above, where saturation is no matter of course; ratio is G; n images were
    watched. vitals and calibration are None where they were not measured: rules that need them are silent then.
    """

    sites: tuple[SiteHealth, ...]
    steep: frozenset[str]
    unresolved: tuple[str, ...]
    ratio: float | None
    accuracy: Share
    calibration: Calibration | None
    n: int
    vitals: Vitals | None = None

    def causes(self, of: Literal["dead", "saturated"]) -> dict[str, Cause]:
        """Why units are so, of every site for which that was looked for."""
        units = () if self.vitals is None else self.vitals.units
        return {each.site: each.cause for each in units if each.cause is not None and each.cause.of == of}
