"""What differs between trained networks beyond their seeds and the rows they were tested on.

Two activations are compared by networks of the same seeds on the same rows. A difference has two sources of doubt: the
seeds, by the variance of the seeds' differences, and the rows, by resampling them. Both variances are added, and
Student's t with the degrees of freedom of Welch (1947) and Satterthwaite (1946), one fewer than seeds where the seeds'
part is all of it, gives the interval: wide with 3 seeds, as it should be. Pairs are corrected together (Holm 1979).
Below 3 seeds nothing is compared. Where a network is one number and every seed has the same difference, there is no
variance to go by: p is that of the signs alone, and the interval has no ends.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec.errors import BadOption
from actsec.verdict.statistics import holm

Array = NDArray[Any]
Statistic = Callable[[Array], float]
"""One network's number from its rows: (n,) or (n, k)."""
LEAST_SEEDS, DRAWS = 3, 200


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95 % interval; values are the seeds' own."""

    value: float
    low: float
    high: float
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """first minus second with its 95 % interval (not corrected); p is Holm's over all pairs of the comparison."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float

    @property
    def detected(self) -> bool:
        """Whether the difference is more than chance at 5 % over all pairs."""
        return self.p < 0.05


def estimate(rows: Sequence[Array], statistic: Statistic, seed: int = 0) -> Estimate:
    """The statistic of networks of several seeds; rows are one array a seed, (n,) or (n, k), all of the same n."""
    values, drawn = _resampled(rows, statistic, seed)
    middle = float(values.mean())
    half, _ = _doubt(values, drawn, len(rows[0]))
    low, high = (middle - half, middle + half) if math.isfinite(half) else (-math.inf, math.inf)
    return Estimate(middle, low, high, tuple(values.tolist()))


def compare(
    found: Mapping[str, Sequence[Array]],
    statistic: Statistic,
    wanted: Sequence[tuple[str, str]] | None = None,
    seed: int = 0,
) -> tuple[Pair, ...]:
    """The pairs of names that are wanted, every one if None, the surest difference first; rows as in ``estimate``.

    Raises BadOption below 3 seeds.
    """
    fewest = min((len(rows) for rows in found.values()), default=LEAST_SEEDS)
    if fewest < LEAST_SEEDS:
        raise BadOption(f"{fewest} seeds tell nothing of an activation", f"Train {LEAST_SEEDS} or more of each.")
    seen = {name: _resampled(rows, statistic, seed) for name, rows in found.items()}
    raw = []
    for first, second in itertools.combinations(found, 2) if wanted is None else wanted:
        with np.errstate(invalid="ignore"):  # infinity less infinity is no difference that can be told
            gaps, drawn = (a - b for a, b in zip(seen[first], seen[second], strict=True))
        middle = float(gaps.mean())
        half, p = _doubt(gaps, drawn, len(found[first][0]))
        if half == 0 and middle != 0 and not len(drawn):
            half, p = math.inf, 0.5 ** (len(gaps) - 1)
        raw.append((first, second, middle, half, p))
    corrected = holm([p for *_, p in raw])
    pairs = [Pair(a, b, d, d - half, d + half, p) for (a, b, d, half, _), p in zip(raw, corrected, strict=True)]
    return tuple(sorted(pairs, key=lambda pair: (pair.p, -abs(pair.difference))))


def _resampled(rows: Sequence[Array], statistic: Statistic, seed: int) -> tuple[Array, Array]:
    """The statistic of each seed's rows (seeds,), and of resampled rows, the same for every seed (draws, seeds)."""
    values = np.array([statistic(each) for each in rows], dtype=np.float64)
    n = len(rows[0])
    if n < 2:
        return values, np.zeros((0, len(rows)))
    at = np.random.default_rng(seed).integers(0, n, (DRAWS, n))
    return values, np.array([[statistic(each[take]) for each in rows] for take in at], dtype=np.float64)


def _doubt(values: Array, drawn: Array, rows: int) -> tuple[float, float]:
    """Half the mean's 95 % interval, and the p of its being 0; infinity and 1 where it cannot be told."""
    from scipy.stats import t

    count, middle = len(values), float(values.mean())
    if count < 2 or not np.isfinite(values).all() or not np.isfinite(drawn).all():
        return math.inf, 1.0
    of_seeds = float(values.var(ddof=1)) / count
    of_rows = float(drawn.mean(1).var(ddof=1)) if len(drawn) else 0.0
    spread = math.sqrt(of_seeds + of_rows)
    if spread == 0:
        return 0.0, 1.0 if middle == 0 else 0.0
    freedom = (of_seeds + of_rows) ** 2 / (of_seeds**2 / (count - 1) + of_rows**2 / max(rows - 1, 1))
    return float(t.ppf(0.975, freedom)) * spread, float(2 * t.sf(abs(middle) / spread, freedom))


def verdict(pairs: Sequence[Pair], what: str, of: str = "between any two activations") -> str:
    """A sentence: which pairs differ, or that none does detectably."""
    differing = [pair for pair in pairs if pair.detected]
    if not differing:
        return f"{what}: no detectable difference {of}."
    told = [_said(pair) for pair in differing[:3]]
    more = f"; {len(differing) - 3} more pairs differ" if len(differing) > 3 else ""
    rest = len(pairs) - len(differing)
    others = f" No detectable difference in {rest} of {len(pairs)} pairs." if rest else ""
    return f"{what}: {'; '.join(told)}{more}.{others}"


def _said(pair: Pair) -> str:
    first, second, gap, low, high = pair.first, pair.second, pair.difference, pair.low, pair.high
    if gap < 0:
        first, second, gap, low, high = second, first, -gap, -high, -low
    return f"{first} above {second} by {gap:.3g} (95 % interval {low:.3g} to {high:.3g}, Holm p {pair.p:.2g})"
