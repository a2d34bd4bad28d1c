"""Ids that other catalogs give to what a finding is about. One table; an id stands in it only with a source.

VERSION is the day the table was last checked. Names follow the edition of the scheme that is named: MITRE renames its
entries, so a reader compares ids. A rule that no scheme has a word for has none here: no catalog listed knows
miscalibration, dead units or a wrong initialisation as an attack or a weakness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from actsec.result import Taxon

VERSION = "2026-11-22"


@dataclass(frozen=True, slots=True)
class Scheme:
    """A catalog: the edition that ids and names were read in, and where."""

    name: str
    title: str
    edition: str
    url: str


SCHEMES: dict[str, Scheme] = {
    "ATLAS": Scheme("ATLAS", "MITRE ATLAS", "5.6.0", "https://github.com/mitre-atlas/atlas-data"),
    "OWASP-ML": Scheme(
        "OWASP-ML",
        "OWASP Machine Learning Security Top 10 (draft)",
        "2023",
        "https://owasp.org/www-project-machine-learning-security-top-10/",
    ),
    "NISTAML": Scheme(
        "NISTAML",
        "NIST AI 100-2",
        "e2025",
        "https://www.nist.gov/publications/adversarial-machine-learning-taxonomy-and-terminology-attacks-and-mitigations-0",
    ),
    "CWE": Scheme("CWE", "Common Weakness Enumeration", "4.17", "https://cwe.mitre.org/"),
}
_NAMES: dict[str, tuple[Literal["ATLAS", "OWASP-ML", "NISTAML", "CWE"], str, str]] = {
    "AML.T0015": ("ATLAS", "Evade AI Model", "https://atlas.mitre.org/techniques/AML.T0015"),
    "AML.T0043": ("ATLAS", "Craft Adversarial Data", "https://atlas.mitre.org/techniques/AML.T0043"),
    "AML.T0043.001": ("ATLAS", "Black-Box Optimization", "https://atlas.mitre.org/techniques/AML.T0043.001"),
    "AML.T0043.002": ("ATLAS", "Black-Box Transfer", "https://atlas.mitre.org/techniques/AML.T0043.002"),
    "AML.T0011.000": ("ATLAS", "Unsafe AI Artifacts", "https://atlas.mitre.org/techniques/AML.T0011.000"),
    "ML01:2023": ("OWASP-ML", "Input Manipulation Attack", SCHEMES["OWASP-ML"].url),
    "ML06:2023": ("OWASP-ML", "AI Supply Chain Attacks", SCHEMES["OWASP-ML"].url),
    "NISTAML.022": ("NISTAML", "Evasion", SCHEMES["NISTAML"].url),
    "NISTAML.025": ("NISTAML", "Black-box Evasion", SCHEMES["NISTAML"].url),
    "CWE-1039": (
        "CWE",
        "Inadequate Detection or Handling of Adversarial Input Perturbations in Automated Recognition Mechanism",
        "https://cwe.mitre.org/data/definitions/1039.html",
    ),
    "CWE-502": ("CWE", "Deserialization of Untrusted Data", "https://cwe.mitre.org/data/definitions/502.html"),
}
EVASION = ("AML.T0015", "AML.T0043", "ML01:2023", "NISTAML.022", "CWE-1039")
_RULES: dict[str, tuple[str, ...]] = {
    "ACT-V01": EVASION,
    "ACT-S01": ("AML.T0011.000", "ML06:2023", "CWE-502"),
    "ACT-M06": ("AML.T0043.001", "NISTAML.025"),
    "ACT-M07": ("AML.T0043.002", "NISTAML.025"),
    "ACT-M23": ("AML.T0043.001", "NISTAML.025"),
}
"""What a rule shows was possible: a search without gradients, or from another model, that broke what gradients left."""
_METRICS = ("robust_accuracy", "worst_class_robust_accuracy", "robust_miss_rate", "attack_success", "smallest_change")


def taxa(rule: str, gate: str = "") -> tuple[Taxon, ...]:
    """The ids of a rule; of a failed gate those of what its metric measures. Empty where no catalog has a word."""
    ids = _RULES.get(rule, ())
    if gate and gate.startswith(_METRICS):
        ids = EVASION
    return tuple(_taxon(each) for each in ids)


def _taxon(id: str) -> Taxon:
    scheme, name, url = _NAMES[id]
    return Taxon(scheme, SCHEMES[scheme].edition, id, name, url)
