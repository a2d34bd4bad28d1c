"""The sections of a report, in the order a reader meets them."""

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
    "limits",
    "provenance",
)
