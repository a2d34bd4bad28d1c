"""What a target says of nonsense."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from actsec.nonsense.drawing import KINDS, Drawn, Moments, observed
from actsec.search.oracle import Oracle, frozen
from actsec.types import Target

Array = NDArray[Any]

NOT_FINITE, REJECTED = -1, -2


@dataclass(frozen=True, slots=True)
class Nonsense:
    """What a target says of nonsense inputs, rows first.

    confidence (n,) float64: the probability of the decided class, 0 where there is no answer; label (n,) int64: that
    class, REJECTED where the target's detector abstains, NOT_FINITE where the logits are not; energy (n,): logsumexp of
    the logits, NaN where there is no answer and for a stochastic target; entropy (n,): that of the probabilities in
    nats, NaN where there is no answer; kind (n,) int64 indexes KINDS; shown (kinds,
    *shape): of each kind the input that the target is surest of, row by row in surest.
    """

    confidence: Array
    label: Array
    energy: Array
    entropy: Array
    kind: Array
    shown: Array
    surest: Array


def measure(
    target: Target,
    x: Tensor,
    id: Tensor | None = None,
    *,
    seed: int = 0,
    repeats: int = 1,
    like: Moments | None = None,
) -> Nonsense:
    """Confidence on ROWS inputs of each kind inside the box: the same for every target of this shape and box.

    x (n, *shape): images whose pixels are permuted, with row ids (n,); the Gaussian noise has the mean and deviation of
    like, those of x where none is given. repeats draws of a stochastic target are averaged. Cost: 4 * ROWS * repeats
    forwards; no more inputs are held at once than one call of the model takes.
    """
    named = torch.arange(len(x), device=x.device) if id is None else id.to(x.device)
    drawn = Drawn(x, named, observed(x) if like is None else like, target.bounds, seed)
    counts = drawn.counts()
    oracle = Oracle(target.having(threshold=None), 0, repeats, seed, "nonsense")
    answers, rejections = [], []
    with frozen(target.model):
        for kind, count in enumerate(counts):
            for row in torch.split(torch.arange(count, device=x.device), oracle.rows()):
                logits, refused = oracle.decided(drawn.rows(kind, row))
                answers.append(logits.double().cpu())
                rejections.append(refused.double().mean(0).cpu() > 0.5)
    each, refused = torch.cat(answers, 1), torch.cat(rejections)
    logits = each[0] if repeats == 1 else torch.log_softmax(each, -1).logsumexp(0) - float(np.log(repeats))
    finite = torch.isfinite(logits).all(1)
    label, answered = target.decide(logits), finite & ~refused
    probability = torch.softmax(logits, 1).gather(1, label[:, None])[:, 0]
    confidence = torch.where(answered, probability, 0.0).numpy()
    energy = torch.where(answered & (repeats == 1), logits.logsumexp(1), torch.nan)
    log_p = logits.log_softmax(1)
    # A probability of 0 adds nothing; its log is minus infinity.
    entropy = torch.where(answered, -(log_p.exp() * log_p).nan_to_num(0.0).sum(1), torch.nan)
    starts = np.cumsum((0, *counts))
    best = [int(confidence[first:last].argmax()) for first, last in itertools.pairwise(starts)]
    shown = [drawn.rows(kind, torch.tensor([row], device=x.device)) for kind, row in enumerate(best)]
    return Nonsense(
        confidence,
        torch.where(answered, label, torch.where(finite, REJECTED, NOT_FINITE)).numpy(),
        energy.numpy(),
        entropy.numpy(),
        np.repeat(np.arange(len(KINDS)), counts),
        torch.cat(shown).cpu().numpy(),
        starts[:-1] + np.array(best),
    )
