"""Losses per row. The sign, stated once: every loss is what the adversary MAXIMISES.

Untargeted rows (target -1) move away from y; targeted rows move towards target. All take decision logits (m, classes),
so a threshold is already in them, and work from two classes on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from actsec import confidence
from actsec.errors import ActsecError
from actsec.forcing.aim import Kill
from actsec.types import Cases, Goal, Loss, Observed, Reply, Threat

_DLR_CLASSES = 3
_TINY = 1e-12


def wanted(cases: Cases) -> Tensor:
    """The class each row is about: its target where it has one, else its label (m,)."""
    return torch.where(cases.target >= 0, cases.target, cases.y)


def by_name(name: str) -> Loss:
    """The loss of an attack's option: ``cross_entropy``, ``dlr`` or ``margin``."""
    known: dict[str, Loss] = {"cross_entropy": CrossEntropy(), "dlr": DLR(), "margin": Margin()}
    return known[name]


def likely(logits: Tensor, cases: Cases, count: int) -> Tensor:
    """The classes to aim at (n, count), from logits (n, classes): the likeliest other than y first.

    They begin again where there are fewer, and a row that has a target of its own has only that.
    """
    ranked = logits.scatter(1, cases.y[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)
    order = torch.arange(count, device=logits.device) % (logits.shape[1] - 1)
    return torch.where(cases.target[:, None] >= 0, cases.target[:, None], ranked[:, order])


def graded(reply: Reply) -> tuple[Tensor, Tensor]:
    """Loss (n, k) and gradient (n, k, *shape) of a reply. Raises ActsecError if the question asked for none."""
    if reply.loss is None or reply.gradient is None:
        raise ActsecError("the referee's reply holds no gradient", "Give ask a loss.")
    return reply.loss, reply.gradient


def best_other(logits: Tensor, label: Tensor) -> Tensor:
    """The largest logit of the classes other than ``label`` (m,)."""
    return logits.scatter(1, label[:, None], -torch.inf).amax(1)


def margin(logits: Tensor, cases: Cases) -> Tensor:
    """How far past the decision boundary (m,): above 0 exactly when the row's goal is reached.

    Untargeted: max_{j != y} z_j - z_y. Targeted: z_t - max_{j != t} z_j. (Carlini & Wagner 2017: -f6.)
    """
    label = wanted(cases)
    gap = logits.gather(1, label[:, None]).squeeze(1) - best_other(logits, label)
    return torch.where(cases.target >= 0, gap, -gap)


def accepted(score: Tensor, observed: Observed) -> Tensor:
    """A score (m,) held to what the target's detector accepts: above 0 only where that is. NaN counts as rejected."""
    if observed.rejection is None:
        return score
    return torch.minimum(score, -observed.rejection.to(score.dtype).nan_to_num(torch.inf))


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """-log p_y, or log p_t for targeted rows. Vanishes in float32 where the softmax saturates: use Margin there."""

    watches: ClassVar[bool] = False

    def __call__(self, observed: Observed, cases: Cases) -> Tensor:
        loss = F.cross_entropy(observed.logits, wanted(cases), reduction="none")
        return torch.where(cases.target >= 0, -loss, loss)


@dataclass(frozen=True, slots=True)
class Margin:
    """The margin itself: immune to the scale of the logits in sign and zero set.

    Behind a detector with a gradient, the lesser of the margin and what the detector still allows: the score of the
    goal, so that the loss attacks both. Cross-entropy and the difference of logits ratio do not see the detector.
    """

    watches: ClassVar[bool] = False

    def __call__(self, observed: Observed, cases: Cases) -> Tensor:
        gap, rejection = margin(observed.logits, cases), observed.rejection
        return gap if rejection is None or not rejection.requires_grad else torch.minimum(gap, -rejection)


@dataclass(frozen=True, slots=True)
class DLR:
    """The difference of logits ratio: the margin over a spread of the logits, so that their scale does not matter.

    z_(i) the i-th largest logit, untargeted: margin / (z_(1) - z_(3)); targeted: margin / (z_(1) - (z_(3) + z_(4)) / 2)
    (Croce & Hein 2020, eqs. 6 and 7; while the label leads, the targeted margin is their z_t - z_y.) With fewer than 3
    classes, or 4 for targeted rows, the spread does not exist and the loss is the margin.
    """

    watches: ClassVar[bool] = False

    def __call__(self, observed: Observed, cases: Cases) -> Tensor:
        gap, top = margin(observed.logits, cases), observed.logits.sort(dim=1, descending=True).values
        spread = torch.ones_like(gap)
        if top.shape[1] >= _DLR_CLASSES:
            spread = torch.where(cases.target < 0, top[:, 0] - top[:, 2] + _TINY, spread)
        if top.shape[1] > _DLR_CLASSES:
            aimed = top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY
            spread = torch.where(cases.target >= 0, aimed, spread)
        return gap / spread


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(p || softmax(z)) in nats, p being what the model said of the row at first: TRADES climbs it, labels unseen.

    (Zhang et al. 2019, eq. 5.) ``log_p`` (n, classes) holds log p of the rows ``ids`` (n,), ascending. It and its
    gradient are zero where the model says p, so an attack must start elsewhere.
    """

    ids: Tensor
    log_p: Tensor
    watches: ClassVar[bool] = False

    def __call__(self, observed: Observed, cases: Cases) -> Tensor:
        before = self.log_p[torch.searchsorted(self.ids, cases.id)]
        return (before.exp() * (before - observed.logits.log_softmax(1))).sum(1)


@dataclass(frozen=True, slots=True)
class LargestConfidence:
    """log of the largest probability, whichever class it is: what makes nonsense look certain (Hein et al. 2019)."""

    watches: ClassVar[bool] = False

    def __call__(self, observed: Observed, cases: Cases) -> Tensor:
        return observed.logits.log_softmax(1).amax(1)


@dataclass(frozen=True, slots=True)
class Misclassify:
    """Success: the target's decision is wrong (or is the row's target class), by more than ``confidence`` in logits."""

    confidence: float = 0.0

    name: ClassVar[str] = "misclassify"
    watches: ClassVar[bool] = False
    settles: ClassVar[bool] = True

    def score(self, observed: Observed, baseline: tuple[Tensor, ...], cases: Cases) -> Tensor:
        """The margin less the confidence (m,); a non-finite row scores -inf, it is not a success."""
        score = accepted(margin(observed.logits, cases) - self.confidence, observed)
        return torch.where(torch.isfinite(observed.logits).all(1), score, torch.full_like(score, -torch.inf))

    def baseline(self, observed: Observed) -> tuple[Tensor, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class Confident:
    """Success: a wrong class (or the row's target) is the decision, with a probability of at least ``probability``.

    threshold is the target's own, which decision logits hold already and probabilities do not.
    """

    probability: float
    threshold: float | None = None

    name: ClassVar[str] = "confident"
    watches: ClassVar[bool] = False
    settles: ClassVar[bool] = True

    def score(self, observed: Observed, baseline: tuple[Tensor, ...], cases: Cases) -> Tensor:
        """The lesser of the margin and the log odds of the class in question less those of ``probability`` (m,)."""
        shift = 0.0 if self.threshold is None else math.log(self.threshold / (1 - self.threshold))
        own = observed.logits + observed.logits.new_tensor([0.0, shift]) if shift else observed.logits
        best = own.scatter(1, cases.y[:, None], -torch.inf).argmax(1)
        label = torch.where(cases.target >= 0, cases.target, best)[:, None]
        odds = own.gather(1, label).squeeze(1) - own.scatter(1, label, -torch.inf).logsumexp(1)
        least = math.log(self.probability) - math.log1p(-self.probability)
        score = accepted(torch.minimum(margin(observed.logits, cases), odds - least), observed)
        return torch.where(torch.isfinite(observed.logits).all(1), score, torch.full_like(score, -torch.inf))

    def baseline(self, observed: Observed) -> tuple[Tensor, ...]:
        return ()


def goal_of(threat: Threat, attack: object, threshold: float | None = None) -> Goal:
    """What success is under a threat. An attack that aims at a confidence (Carlini-Wagner's kappa) is held to it."""
    if threat.confidence is not None:
        return Confident(threat.confidence, threshold)
    if threat.aim is not None:
        return confidence.goal_of(threat, attack, threshold)
    if threat.region is not None:
        # An attack that aims at one site, or at a whole one, is held to that.
        return Kill(threat.region, getattr(attack, "site", None), getattr(attack, "aim", "count"))
    return Misclassify(float(getattr(attack, "confidence", 0.0)))


@dataclass(frozen=True, slots=True)
class Hardest:
    """No success to stop at: the candidate with the highest margin. Adversarial training wants it of every row."""

    name: ClassVar[str] = "hardest"
    watches: ClassVar[bool] = False
    settles: ClassVar[bool] = False

    def score(self, observed: Observed, baseline: tuple[Tensor, ...], cases: Cases) -> Tensor:
        return margin(observed.logits, cases)

    def baseline(self, observed: Observed) -> tuple[Tensor, ...]:
        return ()
