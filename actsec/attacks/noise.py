"""Random noise: what chance alone does inside the same ball. The baseline that every attack must beat.

linf: independent uniform values (kind=uniform) or random corners +-eps (kind=sign). l2: uniform in the ball, or on its
sphere. l1: uniform in the ball, or all of eps on one feature. l0: eps random pixels (features) set to random values of
the box, or to random ends of it. Each draw is a fresh candidate. Without an eps (threat ``l2``) it looks for the
smallest size at which chance fools: each draw lies on a sphere that grows by a quarter until a row is fooled, and
shrinks by a tenth with each success. No paper; Carlini et al. 2019, "On Evaluating Adversarial Robustness", asks for it
as a sanity check: an attack that noise beats is broken, and a model that noise breaks needs no adversary. Cost:
``draws`` forwards, no gradient.

Known failure: in high dimension noise meets almost none of the directions that matter, so that surviving it says
nothing about robustness.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.geometry import bounded, boxed, place, project, random_start, row_sum, spread, steepest, widest
from actsec.types import Ask, Cases, Knowledge, Norm, Reply

_FIRST = 0.05
_GROWN = 1.25
_SHRUNK = 0.9


@dataclass(frozen=True, slots=True)
class NoiseState:
    """The next candidate and how many were asked; without an eps its size (n,), and whether a row was fooled (n,)."""

    x: Tensor
    size: Tensor
    fooled: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class Noise:
    """Independent random points of the ball."""

    draws: Annotated[int, "random candidates of each example"] = 100
    kind: Annotated[Literal["uniform", "sign"], "all over the ball, or only its corners (l2: its sphere)"] = "uniform"

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1", "l0")
    knowledge: ClassVar[Knowledge] = "black_box"
    roles: ClassVar[tuple[str, ...]] = ("noise", "any_eps")

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise BadOption(f"noise(draws={self.draws})", "draws is at least 1.")

    def start(self, cases: Cases, draws: Draws) -> NoiseState:
        endless = torch.isinf(cases.eps)
        if cases.norm != "l2" or not bool(endless.all()):
            bounded(cases, "noise")
        step = torch.zeros_like(cases.id)
        start = torch.where(endless, _FIRST * widest(cases), cases.eps)
        return NoiseState(self._draw(cases, draws, step, start), start, step.bool(), step, step.bool())

    def ask(self, state: NoiseState, cases: Cases) -> Ask:
        return Ask(state.x[:, None])

    def tell(self, state: NoiseState, reply: Reply, cases: Cases, draws: Draws) -> NoiseState:
        step, works = state.step + 1, reply.success[:, 0]
        fooled = state.fooled | works
        searched = torch.where(works, reply.size[:, 0] * _SHRUNK, state.size * torch.where(fooled, 1.0, _GROWN))
        radius = torch.where(torch.isinf(cases.eps), torch.minimum(searched, widest(cases)), cases.eps)
        x = self._draw(cases, draws, step, radius)
        return NoiseState(x, radius, fooled, step, step >= self.draws)

    def _draw(self, cases: Cases, draws: Draws, step: Tensor, radius: Tensor) -> Tensor:
        shape = tuple(cases.x.shape[1:])
        if bool(torch.isinf(cases.eps).any()):
            direction = steepest(draws.normal(cases.id, step, shape), "l2")
            return boxed(cases, cases.x + direction * spread(radius, direction).to(direction.dtype))
        if cases.norm == "l0":
            return _pixels(cases, draws, step, corners=self.kind == "sign")
        if cases.norm == "l1" and self.kind == "uniform":
            return place(cases, _in_the_l1_ball(cases, draws, step))
        if self.kind == "uniform" or cases.norm == "l1":
            return place(cases, random_start(cases, draws, step))
        if cases.norm == "linf":
            direction = draws.sign(cases.id, step, shape)
        else:
            direction = steepest(draws.normal(cases.id, step, shape), "l2")
        return place(cases, direction * spread(cases.eps, direction).to(direction.dtype))


def _in_the_l1_ball(cases: Cases, draws: Draws, step: Tensor) -> Tensor:
    """Uniform points (n, *shape) of the l1 ball: signed exponentials over their sum and one more (Dirichlet)."""
    shape = tuple(cases.x.shape[1:])
    parts = -torch.log1p(-draws.uniform(cases.id, step, shape).double())
    rest = -torch.log1p(-draws.uniform(cases.id, step, (1,), stream=1).double()).flatten()
    share = cases.eps / (row_sum(parts.flatten(1)) + rest).clamp_min(1e-300)
    return (draws.sign(cases.id, step, shape, stream=2) * parts * spread(share, parts)).to(cases.x.dtype)


def _pixels(cases: Cases, draws: Draws, step: Tensor, *, corners: bool) -> Tensor:
    """eps random pixels of each row at random values; exactly those values, not x plus a difference."""
    shape = tuple(cases.x.shape[1:])
    value = draws.uniform(cases.id, step, shape)
    value = value.round() if corners else value
    value = cases.low + (cases.high - cases.low) * value
    places = (1, *shape[1:]) if len(shape) == 3 else shape
    rank = draws.uniform(cases.id, step, places, stream=1) + 1
    chosen = project(rank.expand_as(cases.x).contiguous(), "l0", cases.eps) != 0
    return torch.where(chosen, value, cases.x)
