"""FAB: the smallest change, by repeated projections onto the linearised boundary of one class at a time.

With the plane on which z_t = z_y to first order, d1 the smallest step onto it from x_i and d2 from the input x_0, both
within the box: x_{i+1} = (1 - a)(x_i + 1.05 d1) + a (x_0 + 1.05 d2), a = min(|d1| / (|d1| + |d2|), 0.1). A point that
fools the model is pulled a tenth of the way back to x_0 (Croce & Hein 2019, algorithm 1, targeted as in AutoAttack: the
``targets`` likeliest other classes at the input, here all at once). Works in L-inf, L2 and L1, needs no step size, and
does not depend on the scale of the logits. Cost for each target: 1 forward and 1 backward to begin with, then as many
a step, and as many again after each step that fools.

A finite eps does not constrain the search: points outside the ball are rejected and counted; it ends a row that is
fooled inside it. Known failures: where the gradient is zero a target stands still; where there are fewer other classes
than targets some are tried twice, in vain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.geometry import boxed, finite_rows, row_sum, spread
from actsec.geometry import size as size_of
from actsec.losses import Margin, graded, likely
from actsec.types import Ask, Cases, Knowledge, Norm, Reply

_OVERSHOOT, _BACK, _MOST_BIAS = 1.05, 0.9, 0.1
_LEAST = 1e-8


@dataclass(frozen=True, slots=True)
class FABState:
    """Per row and target (n, k): the point to be judged, its class, the steps made, and whether it was pulled back."""

    x: Tensor
    target: Tensor
    steps: Tensor
    pulled: Tensor
    known: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class FAB:
    """The fast adaptive boundary attack, targeted."""

    steps: Annotated[int, "projections for each target"] = 100
    targets: Annotated[int, "likeliest other classes aimed at"] = 9

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ("minimal",)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.targets < 1:
            raise BadOption(f"fab(steps={self.steps}, targets={self.targets})", "Both are at least 1.")

    def passes(self, shape: tuple[int, ...]) -> int:
        """Forwards and twice the backwards of an image that stands, at most."""
        return 3 * self.targets * (2 * self.steps + 2)

    def start(self, cases: Cases, draws: Draws) -> FABState:
        x = torch.stack([cases.x] * self.targets, 1)
        none = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
        never = torch.zeros_like(cases.id, dtype=torch.bool)
        return FABState(x, cases.target[:, None].expand(none.shape).clone(), none, none > 0, never, never)

    def ask(self, state: FABState, cases: Cases) -> Ask:
        return Ask(state.x, Margin(), target=state.target)

    def tell(self, state: FABState, reply: Reply, cases: Cases, draws: Draws) -> FABState:
        # Not reply.success: a finite eps must not turn the search.
        back = (reply.score > 0) & ~state.pulled & state.known[:, None]
        goes = ~back & (state.steps < self.steps) & state.known[:, None]
        home = cases.x[:, None]
        x = torch.where(spread(back, state.x), home + _BACK * (state.x - home), state.x)
        if bool(goes.any()):
            x = torch.where(spread(goes, x), self._projected(state, reply, cases), x)
        target = torch.where(state.known[:, None], state.target, likely(reply.logits[:, 0], cases, self.targets))
        steps = state.steps + goes.to(torch.int64)
        done = state.known & (state.steps >= self.steps).all(1)
        return FABState(x, target, steps, back, torch.ones_like(state.known), done)

    def _projected(self, state: FABState, reply: Reply, cases: Cases) -> Tensor:
        """Algorithm 1's step from every point (n, k, *shape)."""
        gap, slope = graded(reply)
        many, x = cases.repeated(self.targets), state.x.flatten(0, 1)
        slope = finite_rows(slope.flatten(0, 1))
        gap = gap.flatten().double()
        drift = row_sum((slope.double() * (many.x.double() - x.double())).flatten(1))
        near, far = onto_plane(many, x, slope, gap), onto_plane(many, many.x, slope, gap + drift)
        lengths = [size_of(step, cases.norm).clamp_min(_LEAST) for step in (near, far)]
        bias = (lengths[0] / (lengths[0] + lengths[1])).clamp_max(_MOST_BIAS)
        bias = spread(bias, x).to(x.dtype)
        moved = (1 - bias) * (x + _OVERSHOOT * near) + bias * (many.x + _OVERSHOOT * far)
        return boxed(many, moved).reshape(state.x.shape)


def onto_plane(cases: Cases, x: Tensor, slope: Tensor, gap: Tensor) -> Tensor:
    """The smallest step d (n, *shape), x + d in the box, with gap + slope.d = 0; as near as the box allows.

    In L-inf and L2 every coordinate moves by s (s |slope_i|) until the box stops it: the least s follows from sorting
    the places where coordinates stop. In L1 they are used up in the order of their slopes.
    """
    rise = -torch.sign(gap).to(slope.dtype)
    direction = (slope * spread(rise, slope)).flatten(1)
    weight = direction.abs().double()
    low, high = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in (cases.low, cases.high))
    room = torch.where(direction.reshape(x.shape) > 0, high - x, x - low).clamp_min(0).flatten(1).double()
    need = gap.double().abs()[:, None]
    if cases.norm == "l1":
        order = weight.argsort(dim=1, descending=True, stable=True)
        sorted_weight, sorted_room = weight.gather(1, order), room.gather(1, order)
        reach = sorted_weight * sorted_room
        left = (need - (reach.cumsum(1) - reach)).clamp_min(0)
        used = torch.minimum(left / sorted_weight.clamp_min(1e-300), sorted_room)
        length = torch.zeros_like(room).scatter(1, order, torch.where(sorted_weight > 0, used, 0.0))
    else:
        pace = (weight > 0).double() if cases.norm == "linf" else weight
        stops, order = torch.where(pace > 0, room / pace.clamp_min(1e-300), torch.inf).sort(dim=1)
        weight_of, pace_of = weight.gather(1, order), pace.gather(1, order)
        filled = (weight_of * room.gather(1, order)).cumsum(1)
        speed = (weight_of * pace_of).flip(1).cumsum(1).flip(1)
        before = torch.cat([torch.zeros_like(need), filled[:, :-1]], 1)
        # The stretch in which the need is met: what is filled before it, and how fast the rest still rises.
        at = (filled + torch.where(stops < torch.inf, stops, 0.0) * (speed - weight_of * pace_of) < need).sum(1)
        at = at.clamp_max(room.shape[1] - 1)[:, None]
        s = (need - before.gather(1, at)).clamp_min(0) / speed.gather(1, at).clamp_min(1e-300)
        length = torch.minimum(s * pace, room)
    step = torch.where(weight > 0, length * direction.sign(), 0.0)
    return step.to(x.dtype).reshape(x.shape)
