"""Budgets: sample sizes, steps and queries of a quick, a standard and a thorough audit; and facts about the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from actsec.spec import show
from actsec.types import Aim, Norm, Target, Threat

TABLE_EPS = 0.3
REPEATS = {"quick": 5, "standard": 20, "thorough": 50}
"""Draws averaged for each question to a stochastic target."""
SHORT = "carlini_wagner(steps=100, search_steps=6, step_size=0.05, c=0.1)"
"""For the small models trained in the run: on 19 images of a digits CNN its median is 0.5583, the default's 0.5569."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much work an audit may do, in images for each kind of attack and in passes for each image.

    samples face the headline threat, minimal the minimal-norm and dead-ReLU attacks, pixels the one-pixel search, and
    search Carlini-Wagner, whose nine rounds cost the most.
    """

    samples: int
    minimal: int
    pixels: int
    steps: int
    draws: int
    queries: int
    search: int
    pixel_forwards: int
    carlini_wagner: str = "carlini_wagner"
    cascade: str = "cascade"
    aims: tuple[Aim, ...] = ("worst", "over", "under")
    """Where attacks on calibration move the confidence."""


BUDGETS = {
    "quick": Budget(
        samples=150,
        minimal=50,
        pixels=40,
        steps=20,
        draws=20,
        queries=150,
        search=20,
        pixel_forwards=1_600,
        carlini_wagner=SHORT,
        cascade="cascade(steps=10, restarts=5, queries=50)",
        aims=("worst",),
    ),
    "standard": Budget(
        samples=1000, minimal=300, pixels=100, steps=50, draws=100, queries=1000, search=100, pixel_forwards=10_000
    ),
    "thorough": Budget(
        samples=5000,
        minimal=1000,
        pixels=300,
        steps=100,
        draws=1000,
        queries=5000,
        search=500,
        pixel_forwards=41_000,
        cascade="cascade(steps=50, targets=9, restarts=50, queries=1000)",
    ),
}


@dataclass(frozen=True, slots=True)
class Images:
    """What a budget must know of the data: shape of an input, levels of its grid minus one, rows, range of values."""

    shape: tuple[int, ...]
    grid: int | None
    rows: int
    bounds: tuple[float, float] = (0.0, 1.0)
    table: bool = False

    @property
    def eps(self) -> float:
        """The budget of a plan that names none: 8/255 of colour images, a tenth of others, 0.3 deviations of a table.

        0.3 standard deviations is about what a careless reading or a rounded entry makes, and in most tables far less
        than what tells two classes apart.
        """
        if self.table:
            return TABLE_EPS
        return self.width * (8 / 255 if self.shape[:1] == (3,) else 0.1)

    @property
    def width(self) -> float:
        """The L-inf size that nothing exceeds."""
        return tidy(self.bounds[1] - self.bounds[0])

    def whole(self, norm: Norm) -> Threat:
        """The threat whose ball holds the whole box, in L-inf or L2."""
        far = self.width if norm == "linf" else self.width * math.sqrt(math.prod(self.shape))
        return Threat(norm, tidy(far))


def repeats(budget: str, target: Target) -> int:
    """Answers averaged for each question to a target: those a budget has, fewer where each averages over draws."""
    return -(-REPEATS[budget] // target.draws) if target.stochastic else 1


def tidy(eps: float) -> float:
    """A multiple of eps without the last digits of floating point; k/255 stays exactly that."""
    return eps if "/" in show(eps) else float(f"{eps:.9g}")
