"""Attacks that need the whole model: what they made is proposed, and the referee judges it like any other candidate.

A ``Proposer`` is run once on a copy of the target; its images become the candidates of an ask-and-tell attack that asks
about them and nothing else. Nothing is repaired: a proposal outside ball or box is rejected and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.search.ledger import Verdicts
from actsec.types import NORMS, Ask, Attack, Cases, Knowledge, Norm, Proposer, Recipe, Reply, Target


@dataclass(frozen=True, slots=True)
class StoredState:
    """Candidates not yet judged, and whether they now are."""

    x: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class Stored:
    """Candidates x (n, k, *shape) of the rows with these ids (n,), sorted; forwards and backwards (n,) made them."""

    id: Tensor
    x: Tensor
    forwards: Tensor
    backwards: Tensor

    norms: ClassVar[tuple[Norm, ...]] = NORMS
    knowledge: ClassVar[Knowledge] = "black_box"
    roles: ClassVar[tuple[str, ...]] = ("stored",)

    def start(self, cases: Cases, draws: Draws) -> StoredState:
        place = torch.searchsorted(self.id, cases.id)
        return StoredState(self.x[place], torch.zeros_like(cases.id, dtype=torch.bool))

    def ask(self, state: StoredState, cases: Cases) -> Ask:
        return Ask(state.x)

    def tell(self, state: StoredState, reply: Reply, cases: Cases, draws: Draws) -> StoredState:
        return replace(state, done=torch.ones_like(state.done))


def ready(attack: Attack[Any] | Recipe | Proposer, target: Target, cases: Cases, draws: Draws) -> Attack[Any] | Recipe:
    """The attack itself, or what a proposer made of these cases as an attack. The target is untouched."""
    if not isinstance(attack, Proposer):
        return attack
    made = attack.propose(target, cases, draws)
    order = cases.id.argsort(stable=True)
    return Stored(cases.id[order], made.x[order], made.forwards, made.backwards)


def paid(attack: Attack[Any] | Recipe, verdicts: Verdicts) -> Verdicts:
    """The verdicts with the passes that making stored candidates cost added to those of judging them."""
    if not isinstance(attack, Stored):
        return verdicts
    forwards, backwards = verdicts.forwards + attack.forwards, verdicts.backwards + attack.backwards
    return replace(verdicts, forwards=forwards, backwards=backwards)
