"""ACT-L08: one learned activation parameter stands at several places.

Its gradient is the sum over all of them, so layers that need different slopes get their compromise, and replacing or
retraining one place changes the others.

    low      a learned activation, such as prelu, uses the same parameter at two hidden sites or more
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from actsec.health.architecture import Architecture
from actsec.lints._said import named, said
from actsec.result import Problem


@dataclass(frozen=True, slots=True)
class SharedPrelu:
    """A learned slope that several sites share."""

    rule: ClassVar[str] = "ACT-L08"
    title: ClassVar[str] = "Learned activations are not shared"

    def __call__(self, network: Architecture) -> Iterator[Problem]:
        count = Counter(site.learned for site in network.hidden if site.learned is not None)
        for parameter, times in count.items():
            if times > 1:
                names = [site.name for site in network.hidden if site.learned == parameter]
                kind = next(site.activation.name for site in network.hidden if site.learned == parameter)
                claim = f"{times} {kind} sites share the parameter {parameter}: {named(names)}"
                yield said(self, "low", claim, "Give each call a module of its own.")
