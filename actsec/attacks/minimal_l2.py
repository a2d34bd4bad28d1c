"""Minimal L2: the smallest change that fools the model, fast.

Two walkers a row, both along the normalised gradient of the margin with a cosine-decaying step. The first keeps to a
sphere whose radius shrinks by gamma after a success and grows after a failure (DDN, Rony et al. 2019, algorithm 1). The
second keeps to a ball whose radius is the first-order distance to the boundary, |margin| / ||grad||, until its first
success, and afterwards shrinks below or grows around the best size so far (FMN, Pintor et al. 2021, algorithm 1). Steps
are measured in radii, so that nothing depends on the scale of the input. At the end each walker's best point is moved
along its segment to the input up to the boundary, by bisection. Cost: 2 * steps forwards and backwards, 2 * refine
forwards.

Known failures: where the gradient is exactly zero a walker goes a random way; models that hide their gradient need
``square`` beside it. Bisection assumes one crossing on the segment; every point it visits is judged, so a wrong
assumption costs nearness only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.geometry import finite_rows, free, place, spread, steepest
from actsec.geometry import size as size_of
from actsec.losses import Margin, graded
from actsec.types import Ask, Cases, Knowledge, Norm, Reply

WALKERS = 2
_LAST_STEP = 0.01
_FAR = 1e3


@dataclass(frozen=True, slots=True)
class MinimalL2State:
    """Per row and walker (n, 2): candidate, best success, its size, radius; low: the share of the best that failed."""

    x: Tensor
    best: Tensor
    size: Tensor
    radius: Tensor
    low: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class MinimalL2:
    """DDN and FMN side by side, then bisection to the boundary."""

    steps: Annotated[int, "gradient steps of each walker"] = 100
    refine: Annotated[int, "bisections to the boundary"] = 12
    gamma: Annotated[float, "share that the radius changes by at first; it decays with the step"] = 0.05

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ("minimal",)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.refine < 0 or not 0 < self.gamma < 1:
            raise BadOption(
                f"minimal_l2(steps={self.steps}, refine={self.refine}, gamma={self.gamma})",
                "steps is at least 1, refine at least 0, gamma lies in (0, 1).",
            )

    def start(self, cases: Cases, draws: Draws) -> MinimalL2State:
        step = torch.zeros_like(cases.id)
        x = torch.stack([cases.x] * WALKERS, 1)
        far = torch.full((len(step), WALKERS), torch.inf, dtype=torch.float64, device=x.device)
        return MinimalL2State(x, x, far, far, torch.zeros_like(far), step, step.bool())

    def ask(self, state: MinimalL2State, cases: Cases) -> Ask:
        return Ask(state.x, Margin(), wants=state.step < self.steps)

    def tell(self, state: MinimalL2State, reply: Reply, cases: Cases, draws: Draws) -> MinimalL2State:
        nearer = reply.success & (reply.size < state.size) & (reply.size > 0)
        best = torch.where(spread(nearer, state.x), state.x, state.best)
        size = torch.where(nearer, reply.size, state.size)
        walked, radius = self._walk(replace(state, best=best, size=size), reply, cases, draws)
        # The best moves with every success of the bisection, so the failed share is kept relative to it.
        tried = (state.low + 1) / 2
        bisected = torch.where(nearer, state.low / tried, tried)
        low = torch.where((state.step < self.steps)[:, None], state.low, bisected)
        step = state.step + 1
        halfway = spread((low + 1) / 2, best).to(best.dtype)
        toward = place(cases, (best - cases.x[:, None]) * halfway)
        x = torch.where(spread(step < self.steps, best), walked, toward)
        return replace(state, x=x, best=best, size=size, radius=radius, low=low, step=step, done=self._over(step))

    def _walk(self, state: MinimalL2State, reply: Reply, cases: Cases, draws: Draws) -> tuple[Tensor, Tensor]:
        """The walkers' next candidates (n, 2, *shape) and radii (n, 2)."""
        margin, slopes = graded(reply)
        many, flat = cases.repeated(WALKERS), state.x.flatten(0, 1)
        gradient = free(finite_rows(slopes.flatten(0, 1)), flat, many)
        slope = size_of(gradient, "l2").reshape(reply.size.shape)
        lost = draws.normal(cases.id, state.step, (WALKERS, *cases.x.shape[1:])).flatten(0, 1)
        direction = steepest(torch.where(spread(slope.flatten() > 0, flat), gradient, lost), "l2")
        ahead = margin.double().abs() / slope.clamp_min(1e-12)

        decay = (1 + torch.cos(math.pi * state.step.double() / self.steps)) / 2
        gamma = (self.gamma * (_LAST_STEP + (1 - _LAST_STEP) * decay))[:, None]
        factor = torch.where(reply.success, 1 - gamma, 1 + gamma)
        first = torch.isinf(state.radius)
        sphere = torch.where(first, reply.size + ahead, state.radius * factor)
        ball = torch.where(reply.success, torch.minimum(state.radius, state.size), state.radius) * factor
        ball = torch.where(torch.isinf(state.size), reply.size + ahead, ball)
        room = cases.high - cases.low
        widest = math.sqrt(flat[0].numel()) * room if isinstance(room, float) else size_of(room, "l2")
        limit = cases.eps.clamp_max(widest)[:, None]
        radius = torch.minimum(torch.stack([sphere[:, 0], ball[:, 1]], 1), limit)

        step = ((_LAST_STEP + (1 - _LAST_STEP) * decay)[:, None] * radius).flatten()
        delta = flat - many.x + direction * spread(step, flat).to(flat.dtype)
        # Far outside, the projection onto ball and box lies on the sphere: there the first walker stays.
        out = _FAR * radius / size_of(delta, "l2").reshape(radius.shape).clamp_min(1e-12)
        stretch = torch.stack([out[:, 0], torch.ones_like(out[:, 1])], 1).flatten()
        delta = delta * spread(stretch, delta).to(delta.dtype)
        walked = place(replace(many, eps=radius.flatten()), delta)
        return walked.reshape(state.x.shape), radius

    def _over(self, step: Tensor) -> Tensor:
        return step >= self.steps + self.refine
