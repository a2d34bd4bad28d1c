"""ACT-L06: two layers with nothing between them that bends are one layer: W = W2 W1, b = W2 b1 + b2.

    low      a layer reads another through the identity, views, dropout, batch norm or averages alone, and has at least
             as many weights with it as the one layer they collapse to
    medium   so do at least half of the layers that read another: depth buys little here

Factorised layers, which are narrow in the middle or go channel by channel to save weights, are meant and left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from actsec.health.architecture import Architecture, Weights
from actsec.lints._said import said
from actsec.result import Problem


@dataclass(frozen=True, slots=True)
class LinearStack:
    """Layers that collapse to one."""

    rule: ClassVar[str] = "ACT-L06"
    title: ClassVar[str] = "Layers do not collapse"

    def __call__(self, network: Architecture) -> Iterator[Problem]:
        pairs = []
        for layer in network.layers:
            before = layer.origin
            if before is not None and before.thing == "layer" and before.affine:
                first = network.layers[before.at]
                if not saves(first, layer):
                    pairs.append((first.name, layer.name))
        if pairs:
            more = f", and {len(pairs) - 1} more such pairs" if len(pairs) > 1 else ""
            claim = f"{pairs[0][0]} and {pairs[0][1]} collapse to one linear layer: nothing bends between them{more}"
            severity: Literal["low", "medium"] = "medium" if 2 * len(pairs) >= len(network.layers) - 1 else "low"
            yield said(self, severity, claim, "Put an activation between them, or make them one layer.")


def saves(first: Weights, second: Weights) -> bool:
    """Whether two linear layers in a row have fewer weights than the one that computes the same."""
    if first.groups > 1 or second.groups > 1:
        return True
    both = first.inputs * first.outputs * first.window + second.inputs * second.outputs * second.window
    side = first.window**0.5 + second.window**0.5 - 1
    return bool(both < first.inputs * second.outputs * side**2)
