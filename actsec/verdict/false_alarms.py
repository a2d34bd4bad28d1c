"""How often each rule spoke about an honest model: rule to (models it warned or was red of, honest models judged).

Taken from the table of the galleries (docs/sanity_checks.md says which); a rule that is not here was not measured.
"""

from __future__ import annotations

MEASURED: dict[str, tuple[int, int]] = {}


def words(rule: str) -> str:
    """The rate of a rule's false alarms in words, with its 95 % interval."""
    from actsec.verdict.statistics import share

    if rule not in MEASURED:
        return "not measured on honest models"
    k, n = MEASURED[rule]
    found = share(k, n)
    return f"{k} of {n} honest models (95 % interval {found.low:.1%} to {found.high:.1%})"
