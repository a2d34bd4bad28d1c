"""ACT-L05: the model returns probabilities, where attacks, calibration and cross-entropy need logits.

A softmax applied twice flattens every confidence, and a saturated one leaves cross-entropy no gradient, which looks
like robustness. Decisions do not change. A log-softmax is harmless: the softmax of it is the softmax.

    high     the output is a softmax, or the one output of a two-class model is a sigmoid
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.health.architecture import Architecture
from actsec.lints._said import said
from actsec.result import Problem


@dataclass(frozen=True, slots=True)
class SoftmaxOutput:
    """A softmax or sigmoid at the output."""

    rule: ClassVar[str] = "ACT-L05"
    title: ClassVar[str] = "The model returns logits"

    def __call__(self, network: Architecture) -> Iterator[Problem]:
        end = network.output
        if end is None:
            return
        name = network.flats[end.at] if end.thing == "softmax" else ""
        if end.thing == "site" and network.outputs == 1 and network.sites[end.at].activation.name == "sigmoid":
            name = network.sites[end.at].name
        if name:
            claim = f"the model returns probabilities ({name}), which attacks and calibration would read as logits"
            yield said(self, "high", claim, "Give the model without its last softmax or sigmoid.")
