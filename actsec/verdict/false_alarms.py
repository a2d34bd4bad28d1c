"""How often each rule spoke about an honest model: rule to (models it warned or was red of, honest models judged).

From the galleries (docs/galleries.md): honest models of both on digits (three seeds for the MLPs) and MNIST, a model on
several data sets and seeds counted on each; CIFAR-10 is not among them. A rule that is not here was not measured. The
models that M11 warned of draw, as it says. When M17 had warned of most, it was mended: its rate is of the same models.
"""

from __future__ import annotations

MEASURED: dict[str, tuple[int, int]] = {
    "ACT-M01": (0, 102),
    "ACT-M02": (11, 102),
    "ACT-M03": (0, 102),
    "ACT-M04": (4, 102),
    "ACT-M05": (0, 102),
    "ACT-M06": (3, 102),
    "ACT-M08": (0, 102),
    "ACT-M09": (0, 97),
    "ACT-M10": (0, 102),
    "ACT-M11": (5, 102),
    "ACT-M12": (0, 102),
    "ACT-M13": (0, 102),
    "ACT-M14": (0, 97),
    "ACT-M15": (0, 102),
    "ACT-M16": (0, 102),
    "ACT-M17": (2, 86),
    "ACT-M18": (0, 102),
    "ACT-M20": (0, 102),
    "ACT-M21": (0, 102),
    "ACT-M22": (0, 97),
    "ACT-M23": (0, 97),
}


def words(rule: str) -> str:
    """The rate of a rule's false alarms in words, with its 95 % interval."""
    from actsec.verdict.statistics import share

    if rule not in MEASURED:
        return "not measured on honest models"
    k, n = MEASURED[rule]
    found = share(k, n)
    return f"{k} of {n} honest models (95 % interval {found.low:.1%} to {found.high:.1%})"
