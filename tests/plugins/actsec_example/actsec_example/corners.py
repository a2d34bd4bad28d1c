"""Corners: random search over the corners of the L-inf ball, from scores alone.

Starts at a random corner. Every step moves a random share of the coordinates to their other end and keeps what raises
the score that the goal asks for. Cost: ``steps`` forwards, no gradient. Known failure: slow where gradients would help.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.geometry import bounded, place, spread
from actsec.types import Ask, Cases, Knowledge, Norm, Reply


@dataclass(frozen=True, slots=True)
class CornersState:
    """Signs of the best corner so far (n, *shape) and of the one asked about, its score (n,), steps taken (n,)."""

    best: Tensor
    asked: Tensor
    score: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class Corners:
    """Random search over corners."""

    steps: Annotated[int, "forwards of each example"] = 100
    share: Annotated[float, "of the coordinates, those that a step moves"] = 0.1

    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    knowledge: ClassVar[Knowledge] = "black_box"
    roles: ClassVar[tuple[str, ...]] = ("gradient_free",)

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.share <= 1:
            raise BadOption(f"corners(steps={self.steps}, share={self.share})", "steps is 1 or more, share in (0, 1].")

    def start(self, cases: Cases, draws: Draws) -> CornersState:
        """A random corner, keyed by the row's id, so that no row depends on the others."""
        bounded(cases, "corners")
        step = torch.zeros_like(cases.id)
        signs = draws.sign(cases.id, step, tuple(cases.x.shape[1:]))
        return CornersState(signs, signs, torch.full_like(cases.eps, -torch.inf), step, step.bool())

    def ask(self, state: CornersState, cases: Cases) -> Ask:
        """One candidate a row, inside ball and box; no loss, so that no gradient is computed."""
        delta = state.asked * spread(cases.eps, state.asked).to(state.asked.dtype)
        return Ask(place(cases, delta)[:, None])

    def tell(self, state: CornersState, reply: Reply, cases: Cases, draws: Draws) -> CornersState:
        """Keep what scored higher and move on from there."""
        score = reply.score[:, 0].to(state.score.dtype)
        better, step = score > state.score, state.step + 1
        best = torch.where(spread(better, state.best), state.asked, state.best)
        moved = draws.uniform(cases.id, step, tuple(cases.x.shape[1:]), stream=1) < self.share
        return replace(
            state,
            best=best,
            asked=torch.where(moved, -best, best),
            score=torch.where(better, score, state.score),
            step=step,
            done=step >= self.steps,
        )
