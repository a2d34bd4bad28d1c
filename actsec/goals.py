"""What a threat asks for, beside its ball: which class, how confident; and what no adversary could do.

``linf:8/255:class=3`` wants every image called class 3, ``least_likely`` the class that the model finds least likely on
the untouched image, ``confident=0.99`` any wrong class with at least that probability. An image that belongs to the
wanted class is not counted: calling it so is no mistake. ``miscalibrate`` wants the same class with another confidence.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from actsec.errors import ThreatError
from actsec.search.oracle import Oracle, frozen
from actsec.types import Cases, Target, Threat


def check(threat: Threat, shape: tuple[int, ...], bounds: tuple[float, float], classes: int | None = None) -> None:
    """Raise ThreatError for a threat that means nothing here: larger than the box, or a class that does not exist."""
    width, d = bounds[1] - bounds[0], math.prod(shape)
    pixels = math.prod(shape[1:]) if len(shape) == 3 else d
    most = {"linf": width, "l2": width * math.sqrt(d), "l1": width * d, "l0": float(pixels)}[threat.norm]
    if threat.eps is not None and threat.eps > most * (1 + 1e-9):
        raise ThreatError(
            f"{threat}: eps is larger than the box: no two inputs are further apart than {most:.6g} in {threat.norm}",
            "Give eps in input units: pixels for l0, fractions such as 8/255 of [0, 1] for the others.",
        )
    if threat.norm == "l0" and threat.eps is not None and threat.eps != int(threat.eps):
        raise ThreatError(f"{threat}: {threat.eps:g} pixels", "Give a whole number of pixels: l0:1.")
    if threat.target is not None and classes is not None and threat.target >= classes:
        raise ThreatError(
            f"{threat}: there is no class {threat.target}", f"The model has {classes} classes, counted from 0."
        )


def aimed(cases: Cases, threat: Threat, target: Target, batch: int = 0) -> Cases:
    """The cases with the class that the threat wants of each row; as they are when it wants none.

    The least likely class is that of the smallest decision logit on the untouched input: 1 forward a row.
    """
    if threat.target is not None:
        return replace(cases, target=torch.full_like(cases.y, threat.target))
    if threat.goal != "least_likely":
        return cases
    with frozen(target.model):
        logits = Oracle(target, batch, name=str(threat)).observe(cases.x).logits
    return replace(cases, target=logits.argmin(1))


def counted(cases: Cases) -> Tensor:
    """Rows (n,) bool that have something to reach: no target, or one that is not their own class."""
    return cases.target != cases.y


def words(goal: str) -> str:
    """What success is under a goal, for people."""
    kind, _, value = goal.partition("=")
    return {
        "miscalibrate": "success is the same answer with another confidence",
        "class": f"success is to be called class {value}; images of that class are left out",
        "least_likely": "success is to be called what was least likely untouched",
        "confident": f"success is a wrong answer with a probability of at least {value}",
    }.get(kind, "")
