"""One model of an audit, how it differs from another, and what is advised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from actsec.health.vitals import Vitals
from actsec.result.attacks import Certificate, Miscalibration, ThreatResult
from actsec.result.nonsense import Nonsense
from actsec.result.shares import Calibration, Clean, Corruptions
from actsec.result.units import Kill, SiteHealth


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of the audit: the audited one, a reference model, or one of them behind a chain of defenses."""

    id: str
    title: str
    base: str
    chain: str
    activation: str
    audited: bool
    kind: str
    claims: str
    parameters: int
    fingerprint: str
    fit: dict[str, Any]
    notes: tuple[str, ...]
    clean: Clean
    calibration: tuple[Calibration, ...]
    threats: tuple[ThreatResult, ...]
    sites: tuple[SiteHealth, ...]
    unresolved: tuple[str, ...]
    kills: tuple[Kill, ...]
    corruptions: Corruptions | None = None
    certificate: Certificate | None = None
    nonsense: Nonsense | None = None
    vitals: Vitals | None = None
    miscalibrations: tuple[Miscalibration, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant against its base on the same examples. low and high: 95 % paired bootstrap; p: exact McNemar.

    metric is ``clean_accuracy``, ``ece``, ``nonsense_above_90``, ``dead_units``, or, with ``@`` and a threat,
    ``robust_accuracy``, ``smallest_change`` (its median) or ``confidence_when_wrong``.
    """

    variant: str
    base: str
    metric: str
    before: float
    after: float
    difference: float
    low: float
    high: float
    n: int
    p: float | None
    verdict: Literal["better", "worse", "no detectable difference", "not comparable"]


AdviceLabel = Literal[
    "recommended",
    "calibration only",
    "stability only",
    "costs more than it gives",
    "no detectable effect",
    "not checked",
    "looks better, is masking",
    "not tested",
]
"""What may be said of a defense, best first."""


@dataclass(frozen=True, slots=True)
class Advice:
    """One defense in the ranking. sentence is plain words with its numbers.

    variant is the id of the variant, of an untested defense its name. effects: accuracies on the half of the images
    that the choice did not see, everything else on all. p is that of its robust accuracy at the first threat, corrected
    for how many fixes were compared (Holm). passes, of one image, are what fitting it took, or would take where it is
    not tested; parameters are those it adds.
    """

    variant: str
    label: AdviceLabel
    sentence: str
    estimate: str
    effects: tuple[Comparison, ...] = ()
    p: float | None = None
    passes: int | None = None
    parameters: int | None = None
