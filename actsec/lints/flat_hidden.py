"""ACT-L03: a softmax, a step or another function without a slope stands in a hidden layer.

A softmax ties the units of a layer to a sum of 1: one large unit silences the others and their gradients. A step has no
slope: training and attacks follow an estimate, or nothing. The softmax of attention, which weighs values by a matrix
product, is meant and left.

    medium   a layer reads a step, a sign or rounding: what gradient attacks find is no lower bound of the danger
    low      a layer reads a softmax
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.health.architecture import Architecture
from actsec.lints._said import named, said
from actsec.result import Problem


@dataclass(frozen=True, slots=True)
class FlatHidden:
    """A softmax or a function without a slope inside."""

    rule: ClassVar[str] = "ACT-L03"
    title: ClassVar[str] = "Hidden layers have slopes of their own"

    def __call__(self, network: Architecture) -> Iterator[Problem]:
        read = {at.origin for at in network.layers if at.origin is not None}
        steps = [site.name for site in network.hidden if site.activation.properties.estimated_slope]
        steps += [network.flats[at.at] for at in read if at.thing == "step"]
        if steps:
            claim = f"hidden layers are steps, which have no slope: {named(sorted(steps))}"
            advice = "Use tanh or hardtanh; where a step is meant, believe gradient-free and transfer attacks."
            yield said(self, "medium", claim, advice)
        softmaxes = sorted(network.flats[at.at] for at in read if at.thing == "softmax")
        if softmaxes:
            claim = f"a hidden layer reads a softmax: {named(softmaxes)}"
            yield said(self, "low", claim, "Use relu or tanh inside; a softmax belongs in the loss.")
