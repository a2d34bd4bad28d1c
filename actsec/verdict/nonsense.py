"""What a variant's confidence on nonsense says: shares, separability from test images, far field, fooling.

Nothing here imports torch: everything rests on the arrays that the jobs of actsec.nonsense left.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actsec.result import FarField, FooledClass, Fooling, Nonsense, NonsenseKind, NonsensePicture, Share
from actsec.types import Outcome
from actsec.verdict import calibration
from actsec.verdict.gathering import Gathered
from actsec.verdict.statistics import share, share_of

Array = NDArray[Any]
HIGH, SURE = 0.9, 0.99
_ROUNDING = 1e-9
NOT_FINITE, REJECTED = -1, -2
"""Labels without an answer, as in actsec.nonsense."""


def share_above(outcome: Outcome, level: float) -> Array:
    """Nonsense inputs (n,) bool whose confidence is above ``level``: the same inputs in the same order for all."""
    return np.asarray(outcome.arrays["confidence"] > level)


def auroc(inside: Array, outside: Array) -> float:
    """The probability that a score of ``inside`` (n,) is above one of ``outside`` (m,), ties counting half."""
    ranked = np.sort(outside)
    below = np.searchsorted(ranked, inside, "left") + np.searchsorted(ranked, inside, "right")
    return float(below.sum() / (2 * len(inside) * len(outside)))


def fpr95(inside: Array, outside: Array) -> float:
    """The share of ``outside`` (m,) that scores at least as high as 95 % of ``inside`` (n,) do, ties passing."""
    # The largest threshold that lets 95 % pass is a score itself.
    threshold = np.sort(inside)[::-1][math.ceil(0.95 * len(inside) - _ROUNDING) - 1]
    return float((outside >= threshold).mean())


def nonsense(g: Gathered, classes: Sequence[str]) -> Nonsense | None:
    """How sure a variant is of nonsense; None where that was not measured."""
    if g.nonsense is None or g.clean is None:
        return None
    logits = g.clean.arrays["test_logits"]
    logits = logits[np.isfinite(logits).all(1)]
    if not len(logits):
        return None
    sure = calibration.confidence(logits, g.threshold)
    # The stored logits of a model that draws are logs of its mean probabilities, whose logsumexp is 0.
    energy = None if g.stochastic else np.logaddexp.reduce(logits.astype(np.float64), axis=1)
    p = calibration.softmax(logits)
    entropy = -(p * np.log(np.where(p > 0, p, 1.0))).sum(1)
    kinds = range(len(g.nonsense.numbers["kinds"]))
    return Nonsense(
        n=len(g.nonsense.arrays["confidence"]),
        above_90=share_of(share_above(g.nonsense, HIGH)),
        test_above_90=share_of(sure > HIGH),
        kinds=tuple(
            _kind(g.nonsense, kind, {"confidence": sure, "energy": energy, "entropy": -entropy}, classes)
            for kind in kinds
        ),
        far=_far(g.nonsense),
        fooling=_fooling(g.fooled, classes) if g.fooled else None,
    )


def _kind(outcome: Outcome, kind: int, test: Mapping[str, Array | None], classes: Sequence[str]) -> NonsenseKind:
    """One kind of nonsense. test holds, by the name of a score, those of the test images: higher is more familiar."""
    rows = outcome.arrays["kind"] == kind
    confidence, label = outcome.arrays["confidence"][rows], outcome.arrays["label"][rows]
    answered = label >= 0
    counts = np.bincount(label[answered], minlength=len(classes))
    known = {name: scores for name, scores in test.items() if scores is not None and answered.any()}
    own = {name: outcome.arrays[name][rows][answered] for name in known}
    own |= {"entropy": -own["entropy"]} if "entropy" in own else {}
    separable = {f"auroc_{name}": auroc(scores, own[name]) for name, scores in known.items()}
    passing = {f"fpr95_{name}": fpr95(scores, own[name]) for name, scores in known.items()}
    return NonsenseKind(
        kind=str(outcome.numbers["kinds"][kind]),
        mean_confidence=float(confidence.mean()),
        above_90=share_of(confidence > HIGH),
        sure=share_of(confidence >= SURE),
        auroc_confidence=separable.get("auroc_confidence"),
        auroc_energy=separable.get("auroc_energy"),
        auroc_entropy=separable.get("auroc_entropy"),
        **passing,
        attractor=classes[int(counts.argmax())] if answered.any() else "none",
        attracted=share(int(counts.max()), len(label)),
        not_finite=int((label == NOT_FINITE).sum()),
        rejected=int((label == REJECTED).sum()),
    )


def _far(outcome: Outcome) -> FarField:
    confidence, limit = outcome.arrays["far_confidence"], outcome.arrays["far_limit"]
    found = limit >= 0
    last = outcome.arrays["far_label"][:, -1]
    return FarField(
        alphas=tuple(outcome.numbers["alphas"]),
        confidence=tuple(confidence.mean(0).tolist()),
        sure=tuple(share_of(column >= SURE) for column in confidence.T),
        limited=share_of(found),
        agreed=share_of((last == limit)[found]) if found.any() else None,
        precision=str(outcome.numbers["precision"]),
    )


def _fooling(outcome: Outcome, classes: Sequence[str]) -> Fooling:
    radii = [float(e) for e in outcome.numbers["eps"]]
    black, noise = (_start(outcome, name) for name in ("black", "noise"))
    target = outcome.arrays["target"][black]

    def reached(rows: Array) -> tuple[Share, ...]:
        return tuple(share_of(outcome.arrays["eps"][rows] <= e * (1 + 1e-6)) for e in radii)

    sizes = [eps if np.isfinite(eps) else None for eps in outcome.arrays["eps"].tolist()]
    sure = outcome.arrays["confidence"].tolist()
    rows = zip(target.tolist(), np.flatnonzero(black).tolist(), np.flatnonzero(noise).tolist(), strict=True)
    return Fooling(
        attack=str(outcome.numbers["attack"]),
        sure=float(outcome.numbers["sure"]),
        eps=tuple(radii),
        black=reached(black),
        noise=reached(noise),
        classes=tuple(FooledClass(classes[label], sizes[b], sure[b], sizes[n], sure[n]) for label, b, n in rows),
    )


def _start(outcome: Outcome, name: str) -> Array:
    return np.asarray(outcome.arrays["start"] == list(outcome.numbers["starts"]).index(name))


def pictured(g: Gathered, found: Nonsense | None, classes: Sequence[str]) -> tuple[Nonsense | None, dict[str, Array]]:
    """The same with its pictures, and the inputs they show: the surest of each kind, then the nearest of each class."""
    if found is None or g.nonsense is None:
        return found, {}
    arrays = g.nonsense.arrays
    surest = zip(g.nonsense.numbers["kinds"], arrays["surest"], arrays["shown"], strict=True)
    shown = [(str(kind), int(arrays["label"][row]), float(arrays["confidence"][row]), x) for kind, row, x in surest]
    if g.fooled is not None:
        made = g.fooled.arrays
        for i in np.flatnonzero(_start(g.fooled, "black") & np.isfinite(made["eps"])):
            what = f"black +{made['eps'][i]:.3g}"
            shown.append((what, int(made["target"][i]), float(made["confidence"][i]), made["x"][i]))
    pictures = tuple(
        NonsensePicture(i, what, classes[label] if label >= 0 else "nothing", confidence)
        for i, (what, label, confidence, _) in enumerate(shown)
    )
    images = np.stack([x for *_, x in shown]).astype(np.float32)
    return dataclasses.replace(found, pictures=pictures), {"nonsense": images}
