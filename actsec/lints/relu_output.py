"""ACT-L02: an activation that can die stands at the output.

A ReLU on the logits makes every negative score 0: classes tie there, an input whose scores are all 0 has no gradient
at all, and no class can be given less than the average confidence of a tie.

    medium   the output, up to pooling and views, is an activation whose value and slope are exactly 0 on a half-line
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.health.architecture import Architecture
from actsec.lints._said import said
from actsec.result import Problem


@dataclass(frozen=True, slots=True)
class ReluOutput:
    """An output that can die."""

    rule: ClassVar[str] = "ACT-L02"
    title: ClassVar[str] = "The output is not rectified"

    def __call__(self, network: Architecture) -> Iterator[Problem]:
        if network.output is None or network.output.thing != "site":
            return
        site = network.sites[network.output.at]
        if site.activation.properties.can_die:
            below, kind = site.activation.properties.dead_below, site.activation.name
            claim = f"the output is {kind} ({site.name}): scores below {below:g} are 0 and have no gradient"
            yield said(self, "medium", claim, "Return what it is applied to: logits need no activation.")
