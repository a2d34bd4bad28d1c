"""Isotonic calibration: a rising curve from the model's probabilities to observed frequencies, normalised over classes.

One-vs-rest: each probability p_c is paired with whether c was the label, and isotonic regression (scikit-learn's
isotonic_regression; Zadrozny & Elkan 2002) finds the non-decreasing steps nearest to these pairs. ``curves=one`` pools
the pairs of all classes in one curve (accuracy-preserving: Zhang, Kailkhura & Han 2020, section 4.2): it rises
everywhere, so that the order of the logits, and with it every label, stays as it was. ``curves=each`` fits a curve a
class, as scikit-learn does; it can change labels, and fitting counts them.

A step function has no slope: served as it is, it would hide the model from gradient attacks, which is masking. So each
step becomes one point, its mean probability against its share of right ones (a point of the reliability diagram;
centred isotonic regression, Oron & Flournoy 2017), where it equals scikit-learn's fit exactly, and between points the
curve is a line in log-odds. It rises strictly, beyond its ends with its mean slope, and works on log-odds
z_c - logsumexp of the others, since a probability that is 1 in float32 has no gradient. A step of n pairs that are all
wrong or all right is given at least 1 / (n + 2) or at most 1 less that. The end is log(q_c), q_c the curve's value,
whose softmax is q normalised. One logit z a row is treated as [0, z]; with a threshold the threshold stays, and
decisions near it can change with either kind of curve.

Cost: one forward of the calibration split; of a stochastic target, whose mean probability is fitted, 20 draws or as
many answers of a smoothed one as hold 20 noisy copies.

Known failures: small splits give few steps (their number is reported); normalising bends what each curve had fitted;
the curve has kinks, at which central differences and gradients part a little; confidence under attack is not mended.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from actsec.activations.following import Stands
from actsec.defenses._heads import Labels, columns, labels_of, logits_of, nll_of
from actsec.defenses._learning import split_of
from actsec.errors import ModelError
from actsec.types import Fitted, Material, Target

KNOTS = 128
"""Points of a curve, its two ends included; of more steps than fit, evenly chosen ones are kept."""
NEAREST = 0.01
"""Steps nearer to each other than this in log-odds are one: a cliff is no better for a gradient than a flat."""

Array = NDArray[np.float64]


class Calibrated(Stands):
    """A model whose log-odds, class against the rest, run through rising curves.

    Returns log-probabilities (n, classes) before they are normalised. knots and values are (1 or
    classes, KNOTS): the curve is linear between them and beyond them.
    """

    knots: Tensor
    values: Tensor

    def __init__(self, model: nn.Module, output: str | None, curves: int) -> None:
        super().__init__()
        self.model, self.stands, self.output = model, nn.ModuleDict(), output
        line = torch.arange(KNOTS, dtype=torch.float32) - KNOTS // 2
        self.register_buffer("knots", line.repeat(curves, 1))
        self.register_buffer("values", line.repeat(curves, 1))

    @property
    def keeps_decision(self) -> bool:
        """Whether the largest logit stays the largest."""
        return len(self.knots) == 1

    def forward(self, x: Tensor) -> Tensor:
        return curved(columns(self.model(x), self.output), self.knots, self.values)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Isotonic calibration fitted on the calibration split."""

    curves: Annotated[Literal["one", "each"], "one for all classes, which keeps every label, or one for each"] = "one"

    needs: ClassVar[Literal["nothing", "calibration", "train"]] = "calibration"
    claims: ClassVar[str] = (
        "Mends confidence on data like the calibration split, keeps every label with one curve and can change labels "
        "with a curve for each class; it adds no robustness."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "calibration"
    adaptive: ClassVar[tuple[str, ...]] = ()

    def wrap(self, target: Target) -> Target:
        """The target with straight curves after its logits."""
        curves = 1 if self.curves == "one" else len(target.classes)
        model = Calibrated(deepcopy(target.model), target.output, curves).to(target.device)
        model.training = model.stands.training = target.model.training
        return target.having(model=model, output=None)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Fit the curves. Raises DataError without a calibration split, ModelError when logits are not finite."""
        model = target.model
        if not isinstance(model, Calibrated):
            raise ModelError("isotonic is fitted to a model it has not wrapped", "Call wrap(target) first.")
        split = split_of(material, "calibration", "isotonic")
        before = logits_of(target.having(model=model.model, output=model.output), split.x, material.seed)
        draws, y = len(before), split.y.cpu()
        mean = before.log_softmax(-1).logsumexp(0) - math.log(draws)
        odds, hits = log_odds(mean).numpy(), torch.nn.functional.one_hot(y, mean.shape[1]).double().numpy()
        pairs = [(odds.ravel(), hits.ravel())] if self.curves == "one" else list(zip(odds.T, hits.T, strict=True))
        steps = []
        for row, (s, hit) in enumerate(pairs):
            knots, values = rising(s, hit)
            steps.append(len(knots) - 2)
            model.knots[row] = _filled(knots)
            model.values[row] = _filled(values)
        after = curved(mean, model.knots.double().cpu(), model.values.double().cpu())
        changed = Labels(y, labels_of(target, mean[None]), labels_of(target, after[None]))
        numbers = {
            "curves": self.curves,
            "steps": steps,
            "nll_before": float(nll_of(mean[None], y)),
            "nll_after": float(nll_of(after[None], y)),
            **changed.numbers,
            "examples": len(y),
            "forwards": draws * target.draws * len(y),
            "backwards": 0,
        }
        return Fitted(numbers, (changed.said,))


def log_odds(z: Tensor) -> Tensor:
    """log p_c - log(1 - p_c) of the softmax of logits (n, classes), exact where p_c is 1 up to rounding."""
    top = z == z.amax(-1, keepdim=True)
    first = torch.zeros_like(top).scatter(1, z.argmax(-1, keepdim=True), True)
    rest = z.masked_fill(first, -torch.inf).logsumexp(-1, keepdim=True)
    log_p = z.log_softmax(-1).masked_fill(top, -math.log(2))
    own = log_p - torch.log1p(-log_p.exp())
    # A class that ties with the first has the same odds as the first.
    return torch.where(top, z - rest, own)


def curved(z: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """log q (n, classes) of logits z: q is the curve's value, a logistic of the piecewise linear curve of log-odds."""
    s = log_odds(z)
    at = knots.expand(s.shape[1], -1)
    to = values.expand(s.shape[1], -1)
    piece = torch.searchsorted(at.contiguous(), s.detach().T.contiguous()).clamp(1, at.shape[1] - 1) - 1
    left, right, low, high = at.gather(1, piece), at.gather(1, piece + 1), to.gather(1, piece), to.gather(1, piece + 1)
    t = low.T + ((high - low) / (right - left)).T * (s - left.T)
    return -torch.logaddexp(torch.zeros_like(t), -t)


def rising(s: Array, hit: Array) -> tuple[Array, Array]:
    """The points (k,) of the curve of log-odds s (n,) and labels hit (n,) in {0, 1}: log-odds in, log-odds out.

    The first and the last lie one unit beyond the steps, on the curve's mean slope.
    """
    from sklearn.isotonic import isotonic_regression

    unique, where, count = np.unique(s, return_inverse=True, return_counts=True)
    share = np.bincount(where, hit) / count
    fitted = isotonic_regression(share, sample_weight=count.astype(np.float64), y_min=0.0, y_max=1.0)
    step = np.concatenate([[0], np.cumsum(np.diff(fitted) > 0)])
    size = np.bincount(step, count)
    value = np.bincount(step, fitted * count) / size
    # log p and log(1 - p) of the mean probability of a step, each without cancellation
    chance = np.bincount(step, count * _logistic(unique)) / size
    against = np.bincount(step, count * _logistic(-unique)) / size
    knots = np.log(np.maximum(chance, 1e-300)) - np.log(np.maximum(against, 1e-300))
    value = _inside(value, size.astype(np.float64))
    values = np.log(value) - np.log1p(-value)
    kept = _apart(knots, values)
    knots, values = knots[kept], values[kept]
    slope = (values[-1] - values[0]) / (knots[-1] - knots[0]) if len(knots) > 1 else 1.0
    knots = np.concatenate([[knots[0] - 1], knots, [knots[-1] + 1]])
    return knots, np.concatenate([[values[0] - slope], values, [values[-1] + slope]])


def _logistic(s: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -s))


def _inside(value: Array, size: Array) -> Array:
    """Shares kept off 0 and 1 by what so many pairs can tell, and below, or above, the next step's."""
    value = value.copy()
    if value[0] == 0:
        value[0] = min([1 / (size[0] + 2), *value[1:2] / 2])
    if value[-1] == 1:
        value[-1] = max([1 - 1 / (size[-1] + 2), *((1 + value[-2:-1]) / 2)])
    return value


def _apart(knots: Array, values: Array) -> NDArray[np.int64]:
    """Which points to keep: rising in float32, NEAREST apart, and no more than fit between the two ends."""
    kept = [0]
    for i in range(1, len(knots)):
        rises = np.float32(values[i]) > np.float32(values[kept[-1]])
        if rises and knots[i] - knots[kept[-1]] >= NEAREST:
            kept.append(i)
    most = KNOTS - 2
    if len(kept) > most:
        kept = [kept[round(i * (len(kept) - 1) / (most - 1))] for i in range(most)]
    return np.array(kept, dtype=np.int64)


def _filled(points: Array) -> Tensor:
    """As many points as a curve holds: those beyond the last lie on the line through the last two."""
    more = np.arange(1, KNOTS - len(points) + 1)
    line = points[-1] + more * (points[-1] - points[-2])
    return torch.from_numpy(np.concatenate([points, line]))
