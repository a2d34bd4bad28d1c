"""The sections of a report, in the order a reader meets them."""

from __future__ import annotations

from actsec.result import Result

SECTIONS: tuple[str, ...] = (
    "verdict",
    "scope",
    "sanity",
    "clean",
    "robustness",
    "certificates",
    "convergence",
    "second_opinion",
    "corruptions",
    "calibration",
    "nonsense",
    "activations",
    "defenses",
    "examples",
    "findings",
    "gates",
    "checklist",
    "evidence",
    "limits",
    "provenance",
)

CHECKUP: tuple[str, ...] = tuple(
    name
    for name in SECTIONS
    if name in ("verdict", "scope", "clean", "calibration", "activations", "findings", "gates", "limits", "provenance")
)
"""Those that say something where nothing was attacked."""


def is_checkup(result: Result) -> bool:
    """Whether a result is that of ``actsec diagnose``."""
    return "budget" not in result.plan


def sections_of(result: Result) -> tuple[str, ...]:
    """The sections that a result has."""
    return CHECKUP if is_checkup(result) else SECTIONS
