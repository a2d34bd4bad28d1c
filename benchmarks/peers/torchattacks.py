"""torchattacks. Spec: a class with its options; ``eps`` is filled in where the attack has it."""

from __future__ import annotations

import inspect

import torch
import torchattacks
from torch import Tensor

from actsec.spec import Spec
from benchmarks.peers import Attempt, Question


def prepare(spec: Spec, question: Question) -> Attempt:
    cls = getattr(torchattacks, spec.name)
    options = dict(spec.options)
    known = inspect.signature(cls).parameters
    if "seed" in known:
        options.setdefault("seed", question.seed)
    attacks = [
        cls(question.model, **({"eps": eps, **options} if "eps" in known else options))
        for eps in question.eps or (None,)
    ]

    def attempt() -> list[Tensor]:
        return [torch.cat([attack(x, y) for x, y in question.pieces()]) for attack in attacks]

    return attempt
