"""ACT-L07: the initial weights do not fit the activation.

On its way back through a layer a gradient is multiplied by about gain * slope: the gain sqrt(fan_in E[W^2]) of the
weights above, and the root mean square of f'(z) on the examples. Layers in a row multiply. Both are measured on the
untrained network; nothing is assumed of the activation. For relu, sqrt(2) * sqrt(1/2) = 1 (He et al. 2015, 2.2).

    medium   the product over layers in a row, without norms or shortcuts, lies outside [1e-3, 1e3]

Nothing is said of trained weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.health.architecture import Architecture, Origin
from actsec.lints._said import said
from actsec.result import Problem


@dataclass(frozen=True, slots=True)
class Initialisation:
    """Weights too small or too large for the activation between them."""

    least: float = 1e-3
    most: float = 1e3

    rule: ClassVar[str] = "ACT-L07"
    title: ClassVar[str] = "The initialisation fits the activation"

    def __call__(self, network: Architecture) -> Iterator[Problem]:
        if not network.fresh:
            return
        runs = factors(network)
        worst = max(runs, key=lambda run: abs(math.log(math.prod(run)) if all(run) else math.inf), default=[])
        whole = math.prod(worst)
        if not worst or self.least <= whole <= self.most:
            return
        middle = whole ** (1 / len(worst)) if whole else 0.0
        kinds = sorted({site.activation.name for site in network.hidden})
        gains = [site.slope for site in network.hidden if site.slope]
        wanted = f" {kinds[0]} needs a gain of about {1 / (sum(gains) / len(gains)):.2f} here." if gains else ""
        what = "shrink" if whole < 1 else "grow"
        claim = (
            f"initial gradients {what} to {whole:.1g} of themselves over {len(worst)} layers of {', '.join(kinds)}: "
            f"weights and slopes multiply to {middle:.2f} a layer"
        )
        yield said(self, "medium", claim, f"Initialise so that they multiply to 1.{wanted} Or put a norm between.")


def factors(network: Architecture) -> list[list[float]]:
    """gain * slope of each layer and the activation it reads, by runs of layers that follow each other directly."""
    ends: dict[int, list[float]] = {}
    runs: list[list[float]] = []
    for at, layer in enumerate(network.layers):
        before = layer.origin
        site = network.sites[before.at] if before is not None and before.thing == "site" else None
        under = site.origin if site is not None and _plain(before) else None
        if site is None or site.slope is None or under is None or under.thing != "layer" or not _plain(under):
            runs.append(ends.setdefault(at, []))
            continue
        run = [*ends.get(under.at, []), layer.gain * site.slope]
        ends[at] = run
        runs.append(run)
    return [run for run in runs if run]


def _plain(origin: Origin | None) -> bool:
    """Nothing between that changes the size of a gradient but views and dropout."""
    return origin is not None and origin.affine and not origin.normed and not origin.scaled
