"""AutoAttack, its authors' code. Spec: ``standard``, ``plus``, ``rand``, or ``custom(attacks=[apgd-ce, square])``."""

from __future__ import annotations

import torch
from autoattack import AutoAttack
from torch import Tensor

from actsec.errors import BadOption
from actsec.spec import Spec
from benchmarks.peers import Attempt, Question

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def prepare(spec: Spec, question: Question) -> Attempt:
    if not question.eps:
        raise BadOption("autoattack without eps", "Its attacks take a radius.")
    chosen = spec.get("attacks", ())
    assert isinstance(chosen, tuple)

    def attempt() -> list[Tensor]:
        found = []
        for eps in question.eps:
            attack = AutoAttack(
                question.model,
                norm=NORMS[question.norm],
                eps=eps,
                seed=question.seed,
                version=spec.name,
                attacks_to_run=list(chosen),
                verbose=False,
                device=question.x.device,
            )
            with torch.random.fork_rng():
                found.append(attack.run_standard_evaluation(question.x, question.y, bs=question.batch))
        return found

    return attempt
