"""What an adversary may do and wants: the ball, and the goal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from actsec.errors import SpecError, ThreatError
from actsec.spec import parse_value, show

Norm = Literal["linf", "l2", "l1", "l0"]

Knowledge = Literal["white_box", "black_box"]

NORMS: tuple[Norm, ...] = ("linf", "l2", "l1", "l0")

SLACK = 1e-6
"""A candidate is inside the ball when its size is at most eps * (1 + SLACK): float32 rounding, nothing more."""

Region = Literal["dead", "saturated", "zero_tail"]

Aim = Literal["over", "under", "worst", "random"]
"""Where a calibration attack moves confidence: up, down, or up where the label is wrong and down where it is right."""

Ends = tuple[Region, float | None, float | None]
"""A region of pre-activations: up to the first number, and from the second; None where it has no such end."""

FORCING: dict[str, Region] = {"kill": "dead", "saturate": "saturated", "zero_tail": "zero_tail"}
"""Goals that force units into a region, whatever the label."""

_AIMS: dict[str, Aim] = {
    "miscalibrate": "worst",
    "miscalibrate=over": "over",
    "miscalibrate=under": "under",
    "miscalibrate=random": "random",
}


@dataclass(frozen=True, slots=True)
class Threat:
    """Everything the adversary may do. Printed and parsed as ``linf:8/255``, ``l2``, ``l0:1``, ``linf:0.1:kill``.

    eps is in input units (pixels for l0); None asks for the smallest change that works. goal is ``misclassify``,
    ``class=3`` (that very class), ``least_likely`` (the class least likely untouched), ``confident=0.99`` (any wrong
    class, with at least that probability), ``miscalibrate`` (the same class, but sure where it is wrong and unsure
    where it is right; ``=over`` and ``=under``: surer, or less sure, of everything; ``=random``: towards a confidence
    drawn for each input), or about units and not labels: ``kill``, ``saturate``, ``zero_tail``; knowledge is what the
    adversary sees; queries bounds the forwards per example.
    """

    norm: Norm
    eps: float | None = None
    goal: str = "misclassify"
    knowledge: Knowledge = "white_box"
    queries: int | None = None

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ThreatError(f"unknown norm {self.norm!r}", f"Known: {', '.join(NORMS)}.")
        if self.eps is not None and not (self.eps > 0 and math.isfinite(self.eps)):
            raise ThreatError(f"eps {self.eps} is not a positive number", "Give eps in input units, such as 8/255.")
        if _goal(self.goal) != self.goal:
            raise ThreatError(f"the goal {self.goal!r} is not written {_goal(self.goal)!r}", "Use Threat.parse.")

    @property
    def target(self) -> int | None:
        """The class that every row is to be called, where the goal names one."""
        kind, _, value = self.goal.partition("=")
        return int(value) if kind == "class" else None

    @property
    def confidence(self) -> float | None:
        """The probability that a wrong class must have, where the goal names one."""
        kind, _, value = self.goal.partition("=")
        return float(value) if kind == "confident" else None

    @property
    def aim(self) -> Aim | None:
        """Where the confidence is to move, where the goal is to move it and to leave the label."""
        return _AIMS.get(self.goal)

    @property
    def region(self) -> Region | None:
        """Where the goal forces units to be, where it is about units and not about labels."""
        return FORCING.get(self.goal)

    def __str__(self) -> str:
        eps = int(self.eps) if self.eps is not None and self.eps == int(self.eps) else self.eps
        parts = [self.norm, *([] if eps is None else [show(eps)])]
        if self.goal != "misclassify":
            parts.append(self.goal)
        return ":".join(parts)

    @staticmethod
    def parse(text: str) -> Threat:
        """Read ``norm[:eps][:goal]``. Raises ThreatError."""
        norm, *rest = text.strip().split(":")
        eps: float | None = None
        if rest and (rest[0][:1].isdigit() or rest[0][:1] == "."):
            value = parse_value(rest.pop(0))
            eps = float(value) if isinstance(value, (int, float)) else None
        goal = _goal(rest.pop(0)) if rest else "misclassify"
        if rest:
            raise ThreatError(f"cannot read the threat {text!r}", "Write norm:eps, such as linf:8/255, l2:0.5 or l0:1.")
        return Threat(norm, eps, goal)  # type: ignore[arg-type]  # __post_init__ refuses an unknown norm by name


def _goal(text: str) -> str:
    """A goal as it is always written. Raises ThreatError."""
    kind, sign, value = text.partition("=")
    if text in ("misclassify", "least_likely", *FORCING, *_AIMS):
        return text
    if text == "miscalibrate=worst":
        return "miscalibrate"
    if kind == "class" and value.isascii() and value.isdigit() and len(value) < 10:
        return f"class={int(value)}"
    if kind == "confident" and sign:
        try:
            probability = parse_value(value)
        except SpecError:
            probability = None
        if isinstance(probability, float) and 0.5 <= probability < 1:
            return f"confident={probability!r}"
        raise ThreatError(f"confident={value} is not a probability from 0.5 to 1", "Write confident=0.99.")
    raise ThreatError(
        f"cannot read the goal {text!r} of a threat",
        "Write norm:eps:goal, such as linf:8/255, l2:0.5 or l0:1; "
        "goals are class=3, least_likely, confident=0.99, miscalibrate, miscalibrate=over, miscalibrate=under, "
        "miscalibrate=random, kill, saturate and zero_tail.",
    )


GRADIENT = ("single_step", "iterative", "doubled", "margin")
"""Roles that follow the model's gradients within the threat; unbounded does too, under another threat."""
