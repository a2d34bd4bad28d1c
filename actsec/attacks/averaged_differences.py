"""Averaged differences: the gradient estimated from scores alone, and climbed.

At every step the score is asked at x and at ``directions`` antithetic pairs around it, x + s u and x - s u with
Gaussian u, each brought into ball and box, so that every one is a candidate too. The slope is the mean over the pairs
of (f+ - f-) d / |d|^2 with d the way from one to the other as it was brought inside (evolution strategies, Salimans et
al. 2017; natural evolution strategies as an attack, Ilyas et al. 2018, section 2.2). s is ``smoothing`` times the
budget: what is climbed is the model blurred over that distance, which is what gives functions of many jumps a slope at
all. Tramer, Carlini, Brendel & Madry 2020 ("On Adaptive Attacks", section 5) broke k-winners-take-all so. Slopes are
carried over from step to step by ``momentum``. L-inf steps by the sign, L2 along the slope, L1 along its signed square
(the steepest feature alone is mostly the estimate's noise); 2.5 * eps / steps each.

Without an eps (threat ``l2``) it walks on a sphere around the input whose radius grows by a quarter until a row is
fooled, then shrinks after each success and grows after each failure, as in DDN (Rony et al. 2019, algorithm 1).

Cost: steps * (2 * directions + 1) forwards, no gradient. Known failures: the estimate's angle to the slope grows with
the number of features (cosine about sqrt(directions / features)), so that large images need hundreds of directions; a
score that is flat over the whole budget gives nothing to average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption, ThreatError
from actsec.geometry import boxed, nearest, place, row_sum, size, spread, steepest, widest
from actsec.types import Ask, Cases, Knowledge, Norm, Reply

_FIRST_RADIUS = 0.05
_LOST = 1.25
_SHRINK = 0.1


@dataclass(frozen=True, slots=True)
class AveragedDifferencesState:
    """The next question (n, 1 + 2 * directions, *shape), x first; the slope so far; the radius (n,) without an eps.

    found (n,) says whether an x has fooled the model.
    """

    asked: Tensor
    slope: Tensor
    radius: Tensor
    found: Tensor
    step: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class AveragedDifferences:
    """Ascent along averaged antithetic differences of the score."""

    steps: Annotated[int, "steps of the ascent"] = 30
    directions: Annotated[int, "antithetic pairs of each step"] = 20
    smoothing: Annotated[float, "size of the pairs, as a share of the budget"] = 0.5
    momentum: Annotated[float, "share of the last slope that is kept"] = 0.75

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    knowledge: ClassVar[Knowledge] = "black_box"
    roles: ClassVar[tuple[str, ...]] = ("gradient_free", "any_eps")

    def __post_init__(self) -> None:
        if self.steps < 1 or self.directions < 1:
            said = f"averaged_differences(steps={self.steps}, directions={self.directions})"
            raise BadOption(said, "Both are at least 1.")
        if not 0 < self.smoothing <= 1 or not 0 <= self.momentum < 1:
            raise BadOption(
                f"averaged_differences(smoothing={self.smoothing}, momentum={self.momentum})",
                "smoothing lies in (0, 1], momentum in [0, 1).",
            )

    def passes(self, shape: tuple[int, ...]) -> int:
        """Forwards of an image that stands."""
        return self.steps * (2 * self.directions + 1)

    def start(self, cases: Cases, draws: Draws) -> AveragedDifferencesState:
        endless = torch.isinf(cases.eps)
        if bool(endless.any()) and (cases.norm != "l2" or not bool(endless.all())):
            raise ThreatError(
                f"averaged_differences needs a budget in {cases.norm}", "Give one, or look for the smallest l2 change."
            )
        step = torch.zeros_like(cases.id)
        radius = torch.where(endless, _FIRST_RADIUS * widest(cases), cases.eps)
        slope, no = torch.zeros_like(cases.x), step.bool()
        state = AveragedDifferencesState(cases.x[:, None], slope, radius, no, step, no)
        return replace(state, asked=self._around(cases.x, state, cases, draws))

    def ask(self, state: AveragedDifferencesState, cases: Cases) -> Ask:
        return Ask(state.asked)

    def tell(
        self, state: AveragedDifferencesState, reply: Reply, cases: Cases, draws: Draws
    ) -> AveragedDifferencesState:
        slope = state.slope * self.momentum + self._slope(state, reply)
        found = state.found | reply.success[:, 0]
        step = state.step + 1
        radius = self._radius(state, reply.success[:, 0], found, cases)
        moved = replace(state, slope=slope, radius=radius, found=found, step=step, done=step >= self.steps)
        x = self._stepped(state.asked[:, 0], moved, cases)
        return replace(moved, asked=self._around(x, moved, cases, draws))

    def _slope(self, state: AveragedDifferencesState, reply: Reply) -> Tensor:
        """The averaged differences (n, *shape), summed pair by pair, so that a row's do not depend on the others."""
        k, slope = self.directions, torch.zeros_like(state.slope)
        for i in range(1, k + 1):
            way = state.asked[:, i] - state.asked[:, k + i]
            rise = (reply.score[:, i] - reply.score[:, k + i]).double().nan_to_num(0.0, 0.0, 0.0)
            rate = rise / row_sum(way.double().flatten(1).square()).clamp_min(1e-300)
            slope = slope + way * spread(torch.where(rise == 0, 0.0, rate), way).to(way.dtype)
        return slope / k

    def _stepped(self, x: Tensor, state: AveragedDifferencesState, cases: Cases) -> Tensor:
        direction = _l1_way(state.slope) if cases.norm == "l1" else steepest(state.slope, cases.norm)
        if not bool(torch.isinf(cases.eps).any()):
            length = spread(cases.eps * 2.5 / self.steps, x).to(x.dtype)
            return nearest(cases, x + direction * length)
        # Half a radius along the slope, then back to the sphere.
        moved = x - cases.x + direction * spread(state.radius / 2, x).to(x.dtype)
        scale = state.radius / size(moved, "l2").clamp_min(1e-12)
        return boxed(cases, cases.x + moved * spread(scale, x).to(x.dtype))

    def _radius(self, state: AveragedDifferencesState, fooled: Tensor, found: Tensor, cases: Cases) -> Tensor:
        """The next radius (n,): of the ball itself where there is one."""
        gamma = _SHRINK * (1 + torch.cos(math.pi * state.step.double() / self.steps)) / 2
        grown = torch.where(found, 1 + gamma, _LOST)
        searched = torch.minimum(state.radius * torch.where(fooled, 1 - gamma, grown), widest(cases))
        # The first question asks of the input itself, whose size says nothing of the radius.
        searched = torch.where(state.step == 0, state.radius, searched)
        return torch.where(torch.isinf(cases.eps), searched, cases.eps)

    def _around(self, x: Tensor, state: AveragedDifferencesState, cases: Cases, draws: Draws) -> Tensor:
        """x (n, *shape) and the pairs around it, every one inside ball and box."""
        shape = tuple(x.shape[1:])
        features = math.prod(shape)
        each = self.smoothing * state.radius / {"l1": features, "l2": math.sqrt(features)}.get(cases.norm, 1.0)
        u = draws.normal(cases.id, state.step, (self.directions, *shape)) * spread(each, x)[:, None].to(x.dtype)
        pairs = place(cases, (x - cases.x)[:, None] + torch.cat([u, -u], 1))
        return torch.cat([x[:, None], pairs], 1)


def _l1_way(slope: Tensor) -> Tensor:
    """The slope times its magnitude, of L1 size 1 (n, *shape); 0 where the slope is 0."""
    # By the largest entry first, so that no square underflows.
    flat = slope.flatten(1).double()
    scaled = flat / flat.abs().amax(1, keepdim=True).clamp_min(1e-300)
    way = scaled * scaled.abs()
    return (way / row_sum(way.abs())[:, None].clamp_min(1e-300)).reshape(slope.shape).to(slope.dtype)
