"""What defenses that put something after the logits share: the logits themselves, and whose labels changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actsec.defenses._learning import decisions_of
from actsec.errors import ModelError
from actsec.types import Target, pad_zero, read_head


def columns(output: Any, name: str | None) -> Tensor:
    """Float32 logits (n, classes) in what a model returned; one logit z a row becomes [0, z]."""
    z = read_head(output, name).float()
    return pad_zero(z.reshape(-1, 1)) if z.dim() == 1 or z.shape[1] == 1 else z


def pivot_of(target: Target) -> float:
    """The log odds at which a target with a threshold decides; 0 without one."""
    return 0.0 if target.threshold is None else math.log(target.threshold / (1 - target.threshold))


def finite_decisions(target: Target, x: Tensor, seed: int) -> Tensor:
    """Decision logits (draws, n, classes), float64 on the CPU. Raises ModelError where one is not finite."""
    logits = decisions_of(target, x, seed).double().cpu()
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the logits of the calibration split are not finite", "Check the model's weights.")
    return logits


def logits_of(target: Target, x: Tensor, seed: int) -> Tensor:
    """``finite_decisions`` as the target gives them: a threshold is not in them."""
    logits, pivot = finite_decisions(target, x, seed), pivot_of(target)
    return logits + logits.new_tensor([0.0, pivot]) if pivot else logits


def nll_of(logits: Tensor, y: Tensor) -> Tensor:
    """Mean negative log-likelihood in nats of y (n,) under the mean probability of logits (draws, n, classes)."""
    own = logits.log_softmax(-1)[:, torch.arange(len(y)), y]
    return -(own.logsumexp(0) - math.log(len(logits))).mean()


def labels_of(target: Target, logits: Tensor) -> Tensor:
    """What the target decides (n,) by the mean probability over draws of logits (draws, n, classes)."""
    return target.decide(logits.log_softmax(-1).logsumexp(0))


@dataclass(frozen=True, slots=True)
class Labels:
    """What fitting did to the labels of n examples: y (n,), decided before (n,) and after (n,)."""

    y: Tensor
    before: Tensor
    after: Tensor

    @property
    def numbers(self) -> dict[str, int]:
        """How many decisions changed, and how many of these became right and wrong."""
        changed = self.before != self.after
        return {
            "labels_changed": int(changed.sum()),
            "labels_mended": int((changed & (self.after == self.y)).sum()),
            "labels_spoilt": int((changed & (self.before == self.y)).sum()),
        }

    @property
    def said(self) -> str:
        """The same in words."""
        found = self.numbers
        if not found["labels_changed"]:
            return f"It changes none of the {len(self.y)} labels of the calibration split."
        return (
            f"It changes {found['labels_changed']} of the {len(self.y)} labels of the calibration split: "
            f"{found['labels_mended']} to the right one, {found['labels_spoilt']} away from it."
        )
