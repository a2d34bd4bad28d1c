"""actsec itself, through the referee: what is timed includes judging every candidate and confirming every success.

Several radii are one question where the attack has ``sizes`` (``actsec.curve`` does the same), a run each elsewhere. A
stand-in is made and checked inside the timed run, and the original confirms every success.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from actsec import registry
from actsec.draws import Draws
from actsec.errors import ModelError
from actsec.losses import Misclassify
from actsec.search import lowering
from actsec.search.oracle import Oracle, frozen
from actsec.search.referee import attack_target, cases_of, drive
from actsec.spec import Spec
from actsec.types import Ask, Cases, Reply, Target
from benchmarks.peers import Attempt, Question


def prepare(spec: Spec, question: Question) -> Attempt:
    shape, names = tuple(question.x.shape[1:]), tuple(map(str, range(question.classes)))
    target = Target(question.model, shape, names)
    attack = registry.build("attacks", spec)
    if len(question.eps) > 1 and any(field.name == "sizes" for field in dataclasses.fields(attack)):
        curved = dataclasses.replace(attack, sizes=question.eps)
        return lambda: _curve(curved, target, question)
    return lambda: [_run(attack, target, question, eps) for eps in question.eps or (None,)]


def _run(attack: Any, target: Target, question: Question, eps: float | None) -> Tensor:
    cases = cases_of(target, question.x, question.y, question.norm, eps)
    if question.stand_in:
        return _lowered(attack, target, question, cases)
    return attack_target(attack, target, cases, seed=question.seed, settle=question.settle, batch=question.batch).x


def _lowered(attack: Any, target: Target, question: Question, cases: Cases) -> Tensor:
    """The same run with a faster copy of the model to search on."""
    stand_in = lowering.lower(target, question.x, dtype=getattr(torch, question.stand_in)).target
    if stand_in is target:
        raise ModelError("the model has no stand-in", "Measure it without one.")
    with frozen(target.model), frozen(stand_in.model):
        asked, judge = (Oracle(one, question.batch, seed=question.seed) for one in (stand_in, target))
        draws = Draws(question.seed)
        return drive(
            attack, asked, Misclassify(), cases, draws, settle=question.settle, width=question.batch, judge=judge
        ).x


def _curve(attack: Any, target: Target, question: Question) -> list[Tensor]:
    """The candidates of every size, caught as the referee judges them."""
    count, x = len(question.eps), question.x
    found = x[None].repeat(count, *(1,) * x.dim())

    def catch(index: Tensor, ask: Ask, _: Reply) -> None:
        if ask.x.shape[1] == count:
            tried = torch.ones_like(index, dtype=torch.bool) if ask.wants is None else ~ask.wants
            found[:, index[tried]] = ask.x[tried].transpose(0, 1)

    cases = cases_of(target, x, question.y, question.norm, None)
    attack_target(attack, target, cases, seed=question.seed, batch=question.batch, note=catch)
    return list(found)
