"""ACT-A20: the pre-activations of a call are distributed otherwise than they were.

Found by ``actsec.ActivationMonitor`` in a loop that serves, never by a checkup, which has nothing to compare with
(docs/monitor.md). The pre-activations of a window of rows are counted in ten bins, the deciles of the baseline's first
window, and compared by the population-stability index, the sum over bins of (p - q) ln(p / q).

    said  the index of a whole window is above 0.1, which credit scoring, where it comes from, calls a moderate shift,
          and above twice the largest index among the windows of the baseline itself

The baseline is the first 4 windows in eval mode at fixed weights, or one that was saved and given. What changed is not
decided here: other inputs, another preprocessing, a sensor, an attack. Look at the inputs of that window first, then at
``actsec diagnose`` on some of them; where they are as they should be from now on, save a new baseline.

What it cannot know: all units of a call are compared together, so that what leaves their distribution as it is goes
unnoticed (inverted images came to 0.013); rows that no watched pass held. A monitor that watched too few rows says at
the end that drift could not be judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

RULE = "ACT-A20"
DRIFTED = 0.1
"""The index from which a distribution counts as another one. Windows of the same data came to 0.01 at most
(benchmarks/monitoring.py)."""
WINDOWS = 4
"""Windows that make a baseline; how far they lie from each other is the noise that a drift must exceed twice."""
_FLOOR = 1e-4  # no share of a bin is taken for less: the index has logarithms


def stability(one: Sequence[float], other: Sequence[float]) -> float:
    """The population-stability index of two lists of shares: the sum of (p - q) ln(p / q); 0 for equal ones."""
    pairs = [(max(p, _FLOOR), max(q, _FLOOR)) for p, q in zip(one, other, strict=True)]
    return sum((p - q) * math.log(p / q) for p, q in pairs)


def limit(noise: float) -> float:
    """The index from which a site counts as drifted, where windows of its baseline differ by ``noise``."""
    return max(DRIFTED, 2 * noise)
