"""No library: the model alone, and the five-line attacks everyone writes first. The yardstick of overhead."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from actsec.spec import Spec
from benchmarks.peers import Attempt, Question


def prepare(spec: Spec, question: Question) -> Attempt:
    options = dict(spec.options)
    if spec.name == "passes":
        gradients, forwards = options["gradients"], options["forwards"]
        assert isinstance(gradients, int)
        assert isinstance(forwards, int)
        return lambda: passes(question, gradients, forwards)
    assert spec.name == "fgsm", spec
    return lambda: fgsm(question)


def passes(question: Question, gradients: int, forwards: int) -> list[Tensor]:
    """The model asked ``gradients`` times for an input gradient and ``forwards`` times without one. No attack."""
    for x, y in question.pieces():
        for _ in range(gradients):
            gradient(question, x, y)
        with torch.no_grad():
            for _ in range(forwards):
                question.model(x)
    return [question.x for _ in question.eps or (None,)]


def fgsm(question: Question) -> list[Tensor]:
    """x + eps * sign(gradient), clipped: one gradient serves every eps."""
    signs = torch.cat([gradient(question, x, y).sign() for x, y in question.pieces()])
    return [(question.x + eps * signs).clamp(0, 1) for eps in question.eps]


def gradient(question: Question, x: Tensor, y: Tensor) -> Tensor:
    """d cross-entropy / d x (n, *shape)."""
    leaf = x.detach().clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(F.cross_entropy(question.model(leaf), y, reduction="sum"), leaf)
    return slope
