"""ACT-L01: sigmoids in all hidden layers.

A sigmoid passes at most a quarter of a gradient on (computed: the largest slope), so n of them in a row at most 0.25^n
of it, while the weights are of ordinary size. At Glorot's initialisation tanh does not have this problem; its slope is
1 at zero.

    low      every hidden activation is a sigmoid or hard sigmoid, and there are at least 2
    medium   so many that the product of their largest slopes is below 1e-3, where first layers hardly learn

A norm or shortcut between them lessens it; `actsec diagnose` measures the gradient (ACT-A04).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.health.architecture import Architecture
from actsec.lints._said import said
from actsec.result import Problem

KINDS = ("sigmoid", "hardsigmoid")


@dataclass(frozen=True, slots=True)
class SigmoidHidden:
    """Sigmoids in all hidden layers."""

    vanishing: float = 1e-3

    rule: ClassVar[str] = "ACT-L01"
    title: ClassVar[str] = "Hidden layers are not all sigmoids"

    def __call__(self, network: Architecture) -> Iterator[Problem]:
        kinds = [site.activation for site in network.hidden]
        if len(kinds) < 2 or any(kind.name not in KINDS for kind in kinds):
            return
        left = math.prod(kind.properties.max_slope for kind in kinds)
        claim = f"all {len(kinds)} hidden activations are {kinds[0].name}; their slopes multiply to at most {left:.2g}"
        advice = "Use relu or tanh in hidden layers, with a norm or shortcuts when deep: actsec study depth shows why."
        yield said(self, "medium" if left < self.vanishing else "low", claim, advice)
