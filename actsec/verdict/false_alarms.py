"""How often each rule spoke about an honest model: rule to (models it warned or was red of, honest models judged).

From the galleries (docs/galleries.md): honest models of both on digits and MNIST, one seed, a model on several data
sets counted on each. A rule that is not here was not measured. The one model that M11 warned of draws, as it says.
"""

from __future__ import annotations

MEASURED: dict[str, tuple[int, int]] = {
    "ACT-M01": (0, 41),
    "ACT-M02": (5, 41),
    "ACT-M03": (0, 41),
    "ACT-M04": (2, 41),
    "ACT-M05": (0, 41),
    "ACT-M06": (1, 41),
    "ACT-M08": (0, 41),
    "ACT-M09": (0, 40),
    "ACT-M10": (0, 41),
    "ACT-M11": (1, 41),
    "ACT-M12": (0, 41),
    "ACT-M13": (0, 41),
    "ACT-M14": (0, 40),
    "ACT-M15": (0, 41),
    "ACT-M16": (0, 41),
    "ACT-M17": (0, 34),
    "ACT-M18": (0, 41),
    "ACT-M20": (0, 41),
    "ACT-M21": (0, 41),
    "ACT-M22": (0, 40),
    "ACT-M23": (0, 40),
}


def words(rule: str) -> str:
    """The rate of a rule's false alarms in words, with its 95 % interval."""
    from actsec.verdict.statistics import share

    if rule not in MEASURED:
        return "not measured on honest models"
    k, n = MEASURED[rule]
    found = share(k, n)
    return f"{k} of {n} honest models (95 % interval {found.low:.1%} to {found.high:.1%})"
