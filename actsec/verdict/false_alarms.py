"""How often each rule spoke about an honest model: rule to (models it warned or was red of, honest models judged).

From the galleries (docs/galleries.md): honest models of both on digits and MNIST (three seeds) and CIFAR-10 (three of
the first, two of the second), a model on several data sets and seeds counted on each. A rule that is not here was not
measured. The models that M11 warned of draw, as it says. When M17 had warned of most, it was mended: its rate is of the
same models and of those that came after.
"""

from __future__ import annotations

MEASURED: dict[str, tuple[int, int]] = {
    "ACT-M01": (0, 229),
    "ACT-M02": (15, 229),
    "ACT-M03": (0, 229),
    "ACT-M04": (9, 229),
    "ACT-M05": (0, 229),
    "ACT-M06": (3, 229),
    "ACT-M08": (0, 229),
    "ACT-M09": (0, 218),
    "ACT-M10": (0, 229),
    "ACT-M11": (11, 229),
    "ACT-M12": (0, 229),
    "ACT-M13": (0, 229),
    "ACT-M14": (0, 218),
    "ACT-M15": (0, 229),
    "ACT-M16": (0, 229),
    "ACT-M17": (2, 160),
    "ACT-M18": (0, 229),
    "ACT-M20": (0, 229),
    "ACT-M21": (0, 229),
    "ACT-M22": (0, 218),
    "ACT-M23": (0, 218),
}


def words(rule: str) -> str:
    """The rate of a rule's false alarms in words, with its 95 % interval."""
    from actsec.verdict.statistics import share

    if rule not in MEASURED:
        return "not measured on honest models"
    k, n = MEASURED[rule]
    found = share(k, n)
    return f"{k} of {n} honest models (95 % interval {100 * found.low:.1f} to {100 * found.high:.1f} %)"
