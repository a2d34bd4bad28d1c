"""ACT-L04: the output does not fit the labels.

high     fewer outputs than labels (one output counts as two classes): a label cannot be said
medium   the output is bounded, so the highest confidence a softmax can give is 1 / (1 + (K - 1) exp(low - high)),
         computed from the activation's range for K classes, and it lies below 0.99: sigmoid of K outputs fits
         labels that can hold together, not one label of K; tanh fits numbers in [-1, 1]
low      more outputs than labels: some can never be right on this data
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.health.architecture import Architecture
from actsec.lints._said import said
from actsec.result import Problem


@dataclass(frozen=True, slots=True)
class OutputLabels:
    """An output of the wrong form."""

    sure: float = 0.99

    rule: ClassVar[str] = "ACT-L04"
    title: ClassVar[str] = "The output fits the labels"

    def __call__(self, network: Architecture) -> Iterator[Problem]:
        says, labels = max(network.outputs, 2), network.classes
        if says < labels:
            count = "1 output is" if network.outputs == 1 else f"{network.outputs} outputs are"
            yield said(self, "high", f"{count} too few for {labels} labels", f"Make the last layer {labels} wide.")
        elif says > labels:
            claim = f"{network.outputs} outputs for {labels} labels: {says - labels} can never be right on this data"
            yield said(self, "low", claim, "Check that the data holds every class, or replace the last layer.")
        if network.output is None or network.output.thing != "site" or network.outputs < 2:
            return
        site = network.sites[network.output.at]
        known = site.activation.properties
        if not known.bounded or network.output.scaled:
            return
        most = 1 / (1 + (network.outputs - 1) * math.exp(known.lower - known.upper))
        if most < self.sure:
            kind = site.activation.name
            claim = f"the output is {kind} ({site.name}): no confidence in {network.outputs} classes exceeds {most:.3f}"
            yield said(self, "medium", claim, "Return what it is applied to, and let the loss take the softmax.")
