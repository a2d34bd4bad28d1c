"""Shares with intervals, and paired comparisons on the same examples.

Intervals are 95 % throughout. Random resampling is a function of the seed and the data alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec.errors import DataError
from actsec.result import ClassShare, Clean, Comparison, Share

Array = NDArray[Any]

LEVEL = 0.95
DRAWS = 2000
_Z = 1.959963984540054  # the standard normal's 97.5 % quantile
_CELLS = 4_000_000  # numbers held at once while resampling: 32 MB


@dataclass(frozen=True, slots=True)
class Difference:
    """After minus before with its 95 % interval; p is the exact McNemar test's, None for numbers that are no shares."""

    difference: float
    low: float
    high: float
    p: float | None


def share(k: int, n: int) -> Share:
    """k of n with its 95 % interval: Wilson's (1927), Clopper-Pearson's (1934) at k = 0 and k = n.

    Raises DataError when n is 0 or k lies outside [0, n]: a share of nothing is not a number.
    """
    k, n = int(k), int(n)
    if n < 1 or not 0 <= k <= n:
        raise DataError(f"{k} of {n} is not a share", "Test at least one example.")
    if k in (0, n):
        edge = ((1 - LEVEL) / 2) ** (1 / n)
        return Share(k, n, k / n, 0.0 if k == 0 else edge, 1 - edge if k == 0 else 1.0)
    p, z2 = k / n, _Z * _Z / n
    middle = (p + z2 / 2) / (1 + z2)
    half = _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2)
    return Share(k, n, p, middle - half, middle + half)


def share_of(values: Array) -> Share:
    """The share of True in a bool array (n,)."""
    return share(int(np.count_nonzero(values)), len(values))


def per_class(correct: Array, y: Array, classes: Sequence[str]) -> tuple[ClassShare, ...]:
    """Accuracy on each class that has examples. correct (n,) bool, y (n,) indexes classes."""
    correct, y = np.asarray(correct, bool), np.asarray(y)
    return tuple(
        ClassShare(name, share_of(correct[y == label])) for label, name in enumerate(classes) if np.any(y == label)
    )


def balanced(correct: Array, y: Array) -> float:
    """The mean of the accuracies on the classes that have examples."""
    correct, y = np.asarray(correct, bool), np.asarray(y)
    if not len(y):
        raise DataError("balanced accuracy of 0 examples", "Test at least one example.")
    return float(np.mean([correct[y == label].mean() for label in np.unique(y)]))


def clean(correct: Array, y: Array, classes: Sequence[str]) -> Clean:
    """Accuracy on untouched inputs: overall, balanced, per class; of equally bad classes the first is the worst."""
    shares = per_class(correct, y, classes)
    worst = min(shares, key=lambda each: each.share.value)
    return Clean(share_of(np.asarray(correct, bool)), balanced(correct, y), shares, worst.name)


def resampled(terms: Array, seed: int, draws: int = DRAWS) -> Array:
    """Bootstrap sums: terms (n, m) to (draws, m), each row the sum of n examples drawn with replacement."""
    terms = np.asarray(terms, np.float64)
    n = len(terms)
    rng = np.random.default_rng(seed)
    rows = max(_CELLS // n, 1)
    sums = []
    for start in range(0, draws, rows):
        count = min(rows, draws - start)
        picks = rng.integers(0, n, (count, n)) + np.arange(count)[:, None] * n
        times = np.bincount(picks.ravel(), minlength=count * n).reshape(count, n)
        sums.append(times @ terms)
    return np.concatenate(sums)


def median_ends(values: Array) -> tuple[float, float]:
    """Order statistics of values (n,), infinities among them, that hold the median with at least 95 %.

    The number below the median is Binomial(n, 1/2) (Thompson 1936); below n = 6 no two of them are enough, and the
    least and the largest are given.
    """
    from scipy.stats import binom

    ordered = np.sort(np.asarray(values, np.float64))
    rank = max(int(binom.ppf((1 - LEVEL) / 2, len(ordered), 0.5)) - 1, 0)
    return float(ordered[rank]), float(ordered[len(ordered) - 1 - rank])


def interval(values: Array) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of bootstrap values (draws,)."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired(before: Array, after: Array, seed: int = 0) -> Difference:
    """The difference of two shares on the same examples: paired bootstrap, exact McNemar test (McNemar 1947).

    before, after (n,) bool. Only the examples on which they disagree say anything. Where none disagree the bootstrap
    would give an interval of width 0; it is widened to what no disagreement in n examples can rule out. Where few do it
    is too narrow; it is widened to the exact interval given how many disagree (Clopper & Pearson 1934, of the share of
    them that went one way), so that it holds 0 whenever the test finds nothing.
    """
    before, after = _same(np.asarray(before, bool), np.asarray(after, bool))
    n = len(before)
    lost, won = int(np.sum(before & ~after)), int(np.sum(after & ~before))
    if lost + won == 0:
        reach = share(0, n).high
        return Difference(0.0, -reach, reach, 1.0)
    from scipy.stats import binomtest

    test = binomtest(won, lost + won, 0.5)
    ends = test.proportion_ci(LEVEL)
    exact = [(2 * float(end) - 1) * (lost + won) / n for end in (ends.low, ends.high)]
    counts = np.random.default_rng(seed).multinomial(n, [lost / n, won / n, 1 - (lost + won) / n], size=5 * DRAWS)
    low, high = interval((counts[:, 1] - counts[:, 0]) / n)
    return Difference((won - lost) / n, min(low, exact[0]), max(high, exact[1]), float(test.pvalue))


def paired_mean(before: Array, after: Array, seed: int = 0) -> Difference:
    """The difference of two means of per-example numbers (n,) on the same examples: paired bootstrap."""
    before, after = _same(np.asarray(before, np.float64), np.asarray(after, np.float64))
    change = after - before
    low, high = interval(resampled(change[:, None], seed)[:, 0] / len(change))
    return Difference(float(change.mean()), low, high, None)


def paired_shares(before: Array, after: Array, seed: int = 0) -> Difference:
    """``paired`` where every example is decided, else ``paired_mean`` of shares (n,) with the p of ``sign_flip``."""
    if np.isin(before, (0.0, 1.0)).all() and np.isin(after, (0.0, 1.0)).all():
        return paired(np.asarray(before) > 0.5, np.asarray(after) > 0.5, seed)
    found = paired_mean(before, after, seed)
    return Difference(found.difference, found.low, found.high, sign_flip(before, after, seed))


def sign_flip(before: Array, after: Array, seed: int = 0) -> float:
    """Two-sided p that after - before (n,) lies about 0: how often random signs give as large a sum (Fisher 1935).

    Of bools this is McNemar's test, which ``paired`` makes exactly. By 9999 draws: p is never below 0.0001.
    """
    before, after = _same(np.asarray(before, np.float64), np.asarray(after, np.float64))
    change, draws = (after - before)[after != before], 9999
    rng, rows, hits = np.random.default_rng(seed), max(_CELLS // max(len(change), 1), 1), 0
    least = abs(change.sum()) * (1 - 1e-12)  # a sum of the same numbers in another order is as large
    for start in range(0, draws, rows):
        signs = rng.integers(0, 2, (min(rows, draws - start), len(change))) * 2 - 1
        hits += int(np.count_nonzero(np.abs(signs @ change) >= least))
    return (1 + hits) / (1 + draws)


def holm(ps: Sequence[float]) -> tuple[float, ...]:
    """Each p raised for how many are tested together, in the order given (Holm 1979): below 0.05, all hold at 95 %."""
    raised, worst = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        worst = max(worst, min(ps[i] * (len(ps) - rank), 1.0))
        raised[i] = worst
    return tuple(raised)


def paired_weighted(before: tuple[Array, Array], after: tuple[Array, Array], seed: int = 0) -> Difference:
    """The difference of two weighted means on the same examples, each (values (n,), weights (n,)): paired bootstrap.

    The mean of a number over those examples where something happens, which differ between the two. Resamples where it
    happens to no example are left out. Raises DataError where a weight sums to 0.
    """
    (first, one), (second, two) = (tuple(np.asarray(a, np.float64) for a in each) for each in (before, after))
    _same(first, second)
    if not one.sum() > 0 or not two.sum() > 0:
        raise DataError("a mean over no examples", "Compare where both have some.")
    sums = resampled(np.stack([one * first, one, two * second, two], 1), seed)
    sums = sums[(sums[:, 1] > 0) & (sums[:, 3] > 0)]
    low, high = interval(sums[:, 2] / sums[:, 3] - sums[:, 0] / sums[:, 1])
    means = [float((w * v).sum() / w.sum()) for v, w in ((first, one), (second, two))]
    return Difference(means[1] - means[0], low, high, None)


def paired_median(before: Array, after: Array, seed: int = 0) -> Difference | None:
    """The difference of two medians on the same examples (n,), infinities among them: paired bootstrap.

    None where it or an end of its interval is not finite: more than half of one side, or nearly, is infinite.
    """
    before, after = _same(np.asarray(before, np.float64), np.asarray(after, np.float64))
    n, rng, drawn = len(before), np.random.default_rng(seed), []
    rows = max(_CELLS // n, 1)
    for start in range(0, DRAWS, rows):
        picks = rng.integers(0, n, (min(rows, DRAWS - start), n))
        drawn.append(np.stack([np.median(side[picks], axis=1) for side in (before, after)]))
    here, medians = (np.median(before), np.median(after)), np.concatenate(drawn, axis=1)
    finite = np.isfinite(medians).all(0)
    if not np.isfinite(here).all() or np.mean(~finite) > (1 - LEVEL) / 2:
        return None
    low, high = interval(medians[1, finite] - medians[0, finite])
    return Difference(float(here[1] - here[0]), low, high, None)


def compare(
    variant: str,
    base: str,
    metric: str,
    before: Array,
    after: Array,
    *,
    seed: int = 0,
    lower_is_better: bool = False,
    comparable: bool = True,
) -> Comparison:
    """Compare per-example values of a variant (after) and its base (before); bools by ``paired``, numbers by mean.

    comparable=False (one of the numbers is void, say) gives the numbers without a verdict.
    """
    before, after = np.asarray(before), np.asarray(after)
    shares = before.dtype == bool and after.dtype == bool
    found = paired(before, after, seed) if shares else paired_mean(before, after, seed)
    return judged(
        variant,
        base,
        metric,
        float(before.mean()),
        float(after.mean()),
        len(before),
        found,
        lower_is_better=lower_is_better,
        comparable=comparable,
    )


def judged(
    variant: str,
    base: str,
    metric: str,
    before: float,
    after: float,
    n: int,
    found: Difference,
    *,
    lower_is_better: bool = False,
    comparable: bool = True,
) -> Comparison:
    """The verdict on a difference: detected when its interval excludes 0 and McNemar's p, if any, is below 0.05.

    Both are asked for because the bootstrap's interval is too narrow where few examples disagree.
    """
    detected = not found.low <= 0 <= found.high and (found.p is None or found.p < 1 - LEVEL)
    verdict = "no detectable difference"
    if not comparable:
        verdict = "not comparable"
    elif detected:
        verdict = "better" if (found.difference < 0) == lower_is_better else "worse"
    return Comparison(
        variant,
        base,
        metric,
        before,
        after,
        found.difference,
        found.low,
        found.high,
        n,
        found.p,
        verdict,  # type: ignore[arg-type]  # one of the four words above
    )


def _same(before: Array, after: Array) -> tuple[Array, Array]:
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        raise DataError(
            f"cannot pair {before.shape} with {after.shape} values", "Compare two models on the same examples."
        )
    return before, after
