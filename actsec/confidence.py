"""Moving the confidence and not the label: what a calibration attack climbs, and what success is.

Confidence is the probability of the decided class. Its log odds, log(p / (1 - p)), are measured in its place: they rise
with it and do not saturate where the model is already sure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import ThreatError
from actsec.types import Aim, Cases, Observed, Threat


def odds(logits: Tensor, label: Tensor, threshold: float | None = None) -> Tensor:
    """log(p / (1 - p)) of each row's class ``label`` (m,), float64, from decision logits (m, classes).

    threshold is the target's own, which decision logits hold already and probabilities do not.
    """
    z = logits.double()
    if threshold is not None:
        z = z + z.new_tensor([0.0, math.log(threshold / (1 - threshold))])
    own = label[:, None]
    return z.gather(1, own).squeeze(1) - z.scatter(1, own, -torch.inf).logsumexp(1)


def drawn(id: Tensor, classes: int) -> Tensor:
    """The log odds (m,) float64 of the confidence that each row is to show under the aim ``random``.

    Uniform from 1 / classes, below which no decided class falls, to 1, and keyed by the row's id alone. It is of the
    decision logits: with a threshold, how sure the decision is.
    """
    share = Draws(0, "random target confidence").uniform(id, 0, ()).double()
    p = 1 / classes + (1 - 1 / classes) * share
    return torch.log(p / (1 - p))


def sign(aim: Aim, label: Tensor, y: Tensor) -> Tensor:
    """+1 where the confidence in ``label`` (m,) is to rise, -1 where it is to fall, float64.

    over and under say so of every row; worst has it fall where the label is y and rise where it is not. What random
    says depends on where the confidence is: see ``Surety``.
    """
    if aim == "worst":
        return torch.where(label == y, -1.0, 1.0).double()
    return torch.full_like(y, 1 if aim == "over" else -1, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Surety:
    """Where confidence is to rise, the log odds of the row's target, or without one of the decided class (m,).

    Under the aim ``random`` it is to rise where it is below its target (``drawn``) and to fall where it is above, so
    that the search settles there.

    Where it is to fall, mean_j z_j - log sum_j exp(z_j): minus the divergence of the probabilities from all alike. The
    negative log odds would only raise the runner-up until the label is at its boundary, with 1/2 each. Where another
    class leads, how far the label is behind, which leads back to it.
    """

    aim: Aim
    watches: ClassVar[bool] = False

    def __call__(self, observed: Observed, cases: Cases) -> Tensor:
        z = observed.logits
        label = torch.where(cases.target >= 0, cases.target, z.argmax(1))
        level = (z.mean(1) - z.logsumexp(1)).double()
        now = odds(z, label)
        if self.aim == "random":
            rises = now.detach() < drawn(cases.id, z.shape[1])
        else:
            rises = sign(self.aim, label, cases.y) > 0
        climbed = torch.where(rises, now, level)
        lead = (z.gather(1, label[:, None]) - z.amax(1, keepdim=True)).squeeze(1)
        return torch.where(z.argmax(1) == label, climbed, lead.double()).to(z.dtype)


@dataclass(frozen=True, slots=True)
class Miscalibrate:
    """Success: the confidence moved in the direction of the aim, and the decided label is that of the untouched input.

    Under the aim ``random``, nearer to its target than it was, in log odds; the score is how much nearer.

    The score is how far its log odds moved, so that of each row the candidate that moved them most is kept. A candidate
    with another label, one that the target's detector rejects and one without finite logits score minus infinity.
    """

    aim: Aim = "worst"
    threshold: float | None = None

    name: ClassVar[str] = "miscalibrate"
    watches: ClassVar[bool] = False
    settles: ClassVar[bool] = False

    def baseline(self, observed: Observed) -> tuple[Tensor, ...]:
        """The decided label (m,) and its log odds (m,) on the untouched input."""
        label = observed.logits.argmax(1)
        return label, odds(observed.logits, label, self.threshold)

    def score(self, observed: Observed, baseline: tuple[Tensor, ...], cases: Cases) -> Tensor:
        label, before = baseline
        now = odds(observed.logits, label, self.threshold)
        if self.aim == "random":
            wanted = drawn(cases.id, observed.logits.shape[1]) + self._shift(label)
            moved = (before - wanted).abs() - (now - wanted).abs()
        else:
            moved = sign(self.aim, label, cases.y) * (now - before)
        counts = (observed.logits.argmax(1) == label) & torch.isfinite(observed.logits).all(1) & torch.isfinite(moved)
        if observed.rejection is not None:
            counts &= observed.rejection <= 0
        return torch.where(counts, moved, torch.full_like(moved, -torch.inf)).to(observed.logits.dtype)

    def _shift(self, label: Tensor) -> Tensor:
        """What lies between the odds of the model's word and those of its decision logits (m,)."""
        if self.threshold is None:
            return torch.zeros_like(label, dtype=torch.float64)
        return (2.0 * label.double() - 1) * math.log(self.threshold / (1 - self.threshold))


def goal_of(threat: Threat, attack: object, threshold: float | None) -> Miscalibrate:
    """The goal of a threat. Raises ThreatError for an attack that aims elsewhere."""
    assert threat.aim is not None  # noqa: S101  # the caller looked
    own = getattr(attack, "goal", None)
    if own is not None and own != threat.goal:
        raise ThreatError(
            f"an attack on {own} at {threat}", f"Write {threat.norm}:eps:{own}, or give the attack its aim."
        )
    return Miscalibrate(threat.aim, threshold)
