"""Confidence against correctness: ECE with its null, MCE, Brier, NLL and the reliability diagram.

Confidence is the probability of the decided class (the largest one, unless the target decides otherwise). All sums are
in float64. Nothing here imports torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec.errors import DataError, ModelError
from actsec.result import Bin, Calibration, Interval
from actsec.verdict import statistics
from actsec.verdict.statistics import Difference

Array = NDArray[Any]

BINS = 15
NULL_DRAWS = 1000
CLIP = float(np.finfo(np.float64).eps)
"""Probabilities of the true class are clipped to at least 2.2e-16 in the NLL (so one example adds at most 36.04)."""
_CELLS = 4_000_000


def softmax(logits: Array) -> Array:
    """Probabilities (n, classes) float64 of logits (n, classes), shifted by the row's maximum first."""
    z = np.asarray(logits, np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    e = np.exp(z)
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def decided(probabilities: Array, threshold: float | None) -> Array:
    """The decided class (n,): the largest probability, or class 1 where it exceeds the threshold."""
    return probabilities.argmax(1) if threshold is None else (probabilities[:, 1] > threshold).astype(np.int64)


def confidence(logits: Array, threshold: float | None = None) -> Array:
    """The probability of the decided class (n,)."""
    p = softmax(logits)
    return p[np.arange(len(p)), decided(p, threshold)]


def calibration(
    probabilities: Array,
    y: Array,
    condition: str,
    bins: int = BINS,
    seed: int = 0,
    decided: Array | None = None,
) -> Calibration:
    """Calibration of probabilities (n, classes) against labels y (n,). decided (n,) overrules the largest probability.

    ece: sum over bins of n_b/n |accuracy_b - confidence_b|, top label, equal-width bins [low, high) with 1.0 in the
    last (Guo et al. 2017, eq. 3). mce: the largest gap of a bin that has examples. null_mean and null_p95: the ECE of
    a perfectly calibrated model with these very confidences, labels redrawn 1000 times; below null_p95 an ECE cannot
    be told from 0. brier: mean over examples of the sum over classes (p - onehot)^2, in [0, 2]. nll: mean -log p_y,
    clipped (see CLIP). wrong_above_90: wrong and more than 0.9 confident, of all n.

    Raises ModelError for probabilities that are not finite, DataError for shapes that do not fit or no examples.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(y)
    if p.ndim != 2 or y.shape != p.shape[:1] or not len(p):
        raise DataError(
            f"probabilities {p.shape} with labels {y.shape}", "Give (n, classes) probabilities and n labels, n >= 1."
        )
    if not np.isfinite(p).all():
        raise ModelError(
            f"{int((~np.isfinite(p)).any(1).sum())} of {len(p)} outputs are not finite",
            "Look for NaN in the weights or the inputs.",
        )
    row = np.arange(len(p))
    label = p.argmax(1) if decided is None else np.asarray(decided)
    confidence, correct = p[row, label], label == y
    wrong = ~correct
    reliability = diagram(confidence, correct, bins)
    filled = [each for each in reliability if each.n]
    null = null_ece(confidence, bins, seed)
    null_p95 = float(np.quantile(null, 0.95))
    onehot = np.zeros_like(p)
    onehot[row, y] = 1.0
    brier, nll = np.square(p - onehot).sum(1), -np.log(np.clip(p[row, y], CLIP, None))
    terms = np.column_stack([gaps(confidence, correct, bins), brier, nll, np.where(wrong, confidence, 0.0), wrong])
    sums = statistics.resampled(terms, seed)
    low, high = _ece_ends(sums[:, :bins], ece(confidence, correct, bins), len(p), null_p95)
    return Calibration(
        condition=condition,
        n=len(p),
        bins=bins,
        ece=ece(confidence, correct, bins),
        null_mean=float(null.mean()),
        null_p95=null_p95,
        mce=max(abs(each.accuracy - each.confidence) for each in filled),
        brier=float(brier.mean()),
        nll=float(nll.mean()),
        mean_confidence=float(confidence.mean()),
        confidence_when_wrong=float(confidence[wrong].mean()) if wrong.any() else None,
        wrong_above_90=statistics.share_of(wrong & (confidence > 0.9)),
        reliability=reliability,
        ece_low=low,
        ece_high=high,
        brier_interval=Interval(*statistics.interval(sums[:, bins] / len(p))),
        nll_interval=Interval(*statistics.interval(sums[:, bins + 1] / len(p))),
        confidence_when_wrong_interval=_mean_of_some(sums[:, bins + 2], sums[:, bins + 3]),
    )


def _mean_of_some(totals: Array, counts: Array) -> Interval | None:
    """The interval of a mean over those examples where something happens, by resampled sums and counts (draws,)."""
    some = counts > 0
    if np.mean(~some) > (1 - statistics.LEVEL) / 2:
        return None
    return Interval(*statistics.interval(totals[some] / counts[some]))


def ece(confidence: Array, correct: Array, bins: int = BINS) -> float:
    """The expected calibration error of confidences (n,) and correctness (n,) bool."""
    return float(np.abs(gaps(confidence, correct, bins).sum(0)).sum() / len(confidence))


def ece_interval(
    confidence: Array, correct: Array, null_p95: float, bins: int = BINS, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of an ECE: bootstrap over the examples, from the reverse interval to the percentile one.

    The plug-in ECE is biased upwards and a resample's is more so: the reverse interval (2 * estimate - quantile)
    takes that off, the percentile one does not; the two are spanned. It begins at 0 where the ECE is at most null_p95,
    what a perfectly calibrated model may show. Measured over 100 models a setting, true ECEs of 0, 0.03 and 0.1: covers
    in 97, 95 and 98 % at 500 examples, in 97, 88 and 98 % at 150.
    """
    sums = statistics.resampled(gaps(confidence, correct, bins), seed)
    return _ece_ends(sums, ece(confidence, correct, bins), len(confidence), null_p95)


def _ece_ends(sums: Array, estimate: float, n: int, null_p95: float) -> tuple[float, float]:
    """``ece_interval`` of resampled gaps (draws, bins)."""
    low, high = statistics.interval(np.abs(sums).sum(1) / n)
    least = min(low, 2 * estimate - high) if estimate > null_p95 else 0.0
    return max(least, 0.0), min(max(high, 2 * estimate - low), 1.0)


def gaps(confidence: Array, correct: Array, bins: int = BINS) -> Array:
    """Each example's signed gap in its bin: (n, bins), confidence - correct in one column and 0 in the others."""
    terms = np.zeros((len(confidence), bins))
    terms[np.arange(len(confidence)), _bin(confidence, bins)] = np.asarray(confidence, np.float64) - correct
    return terms


def diagram(confidence: Array, correct: Array, bins: int = BINS) -> tuple[Bin, ...]:
    """The reliability diagram. A bin without examples has n = 0 and zeros that mean nothing."""
    edges, where = _edges(bins), _bin(confidence, bins)
    rows = []
    for b in range(bins):
        inside = where == b
        n = int(inside.sum())
        mean = (float(confidence[inside].mean()), float(correct[inside].mean())) if n else (0.0, 0.0)
        rows.append(Bin(float(edges[b]), float(edges[b + 1]), n, *mean))
    return tuple(rows)


def null_ece(confidence: Array, bins: int = BINS, seed: int = 0, draws: int = NULL_DRAWS) -> Array:
    """ECE (draws,) of a perfectly calibrated model with these confidences: correct ~ Bernoulli(confidence)."""
    confidence = np.asarray(confidence, np.float64)
    n = len(confidence)
    member = np.zeros((n, bins))
    member[np.arange(n), _bin(confidence, bins)] = 1.0
    expected = confidence @ member
    rng, rows, values = np.random.default_rng(seed), max(_CELLS // n, 1), []
    for start in range(0, draws, rows):
        hits = rng.random((min(rows, draws - start), n)) < confidence
        values.append(np.abs(expected - hits.astype(np.float64) @ member).sum(1) / n)
    return np.concatenate(values)


def paired_ece(before: tuple[Array, Array], after: tuple[Array, Array], bins: int = BINS, seed: int = 0) -> Difference:
    """The difference of two ECEs on the same examples, each (confidence (n,), correct (n,)): paired bootstrap.

    The plug-in ECE is biased upwards and resampling adds to that. The percentile interval is blind to the bias, the
    reverse one (2 * estimate - quantile) overcorrects it; low and high span both. Measured over 200 pairs of models a
    setting, 100 to 1000 examples: covers the true difference in 94 to 100 % where the models are alike or both
    miscalibrated, but in 78 to 84 % where one is perfectly calibrated: it then understates the gap, towards 0.
    """
    n = len(before[0])
    if n != len(after[0]) or not n:
        raise DataError(f"cannot pair {n} with {len(after[0])} examples", "Compare two models on the same examples.")
    estimate = ece(*after, bins) - ece(*before, bins)
    both = np.concatenate([gaps(*before, bins), gaps(*after, bins)], axis=1)
    sums = np.abs(statistics.resampled(both, seed)) / n
    low, high = statistics.interval(sums[:, bins:].sum(1) - sums[:, :bins].sum(1))
    return Difference(estimate, min(low, 2 * estimate - high), max(high, 2 * estimate - low), None)


def _edges(bins: int) -> Array:
    return np.linspace(0.0, 1.0, bins + 1)


def _bin(confidence: Array, bins: int) -> Array:
    return np.clip(np.searchsorted(_edges(bins), confidence, side="right") - 1, 0, bins - 1)
