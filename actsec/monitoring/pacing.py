"""Which passes are watched, so that watching costs no more than its share of the time of the passes."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

TIMED = 4
"""Passes before a watched one that are timed, to know what a pass costs unwatched."""
SHARE = 0.8
"""Of the budget, what watching may use; the rest is for the hooks and for what a clock misses."""
Alike = tuple[int, bool, bool]
"""Passes that cost the same: size of the input, train mode, gradients."""


@dataclass(slots=True)
class Pace:
    """budget is the share of the passes' time; infinity watches every pass."""

    budget: float
    wait: int = field(init=False)  # passes until one may be watched; above TIMED they are not even timed
    usual: dict[Alike, deque[float]] = field(default_factory=dict)
    costs: deque[float] = field(default_factory=lambda: deque(maxlen=5))

    def __post_init__(self) -> None:
        self.wait = 0 if self.endless else TIMED + 1

    @property
    def endless(self) -> bool:
        return math.isinf(self.budget)

    def let_go(self) -> bool:
        """Whether the pass that begins is neither watched nor timed."""
        if self.wait <= TIMED:
            return False
        self.wait -= 1
        return True

    def due(self, alike: Alike) -> bool:
        """Whether the pass that begins may be watched."""
        return self.wait <= 0 and (self.endless or len(self.usual.get(alike, ())) > 1)

    def timed(self, alike: Alike, seconds: float) -> None:
        """An unwatched pass took so long."""
        self.usual.setdefault(alike, deque(maxlen=9)).append(seconds)
        self.wait = max(0, self.wait - 1)

    def pay(self, alike: Alike, seconds: float, after: float) -> None:
        """A watched pass took so long, of which ``after`` it had ended."""
        if self.endless:
            return
        usual = statistics.median(self.usual[alike])
        extra = max(seconds - usual, after)
        self.costs.append(extra)
        self.wait = self._rest(extra, usual)

    @property
    def every(self) -> int:
        """One in so many passes is watched, as it looks now; 1 before anything was measured or without a budget."""
        known = [seconds for each in self.usual.values() for seconds in each]
        return self._rest(0.0, statistics.median(known)) + 1 if known and self.costs else 1

    def _rest(self, extra: float, usual: float) -> int:
        cost = max(extra, statistics.median(self.costs))
        return 0 if self.endless else math.ceil(cost / (SHARE * self.budget * max(usual, 1e-9)))
