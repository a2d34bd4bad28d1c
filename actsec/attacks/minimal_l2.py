"""Minimal L2: the smallest change that fools the model, fast.

Which class lies nearest decides more than how well the way to it is polished: on a ResNet-20 one image in five has a
class nearer than the one that every untargeted attack falls into, by up to a third. So each row is asked, in this
order: the first-order distance |margin| / ||grad|| to each of the likeliest classes (DeepFool, Moosavi-Dezfooli et al.
2016, eq. 8); a short scout towards each class whose distance is within half of the nearest's, at most ``scouts`` of
them; a long walk away from the label, from the best point so far, and another while the last one's second half still
gained ground, as it does where the gradient jumps (k-winners-take-all); a bisection of the best point's segment to the
input. Rows with a target of their own have one class.

Scouts and walk step along the normalised gradient, by a share of the radius that falls as a cosine, and go back to a
sphere whose radius shrinks by gamma after a success and grows after a failure (DDN, Rony et al. 2019, algorithm 1). It
begins at the first-order distance to the boundary (FMN, Pintor et al. 2021, algorithm 1) and grows by a quarter while a
row has no success yet. Steps are measured in radii, so that nothing depends on the scale of the input. Cost: at most
targets + 8 * scouts + walks * steps forwards and backwards, refine forwards; on a ResNet-20 some 110 of each.

What is asked of a success is the goal's to say: how much margin is missing is read off its score, so that
``Misclassify(confidence)`` and ``Confident(probability)`` are reached as straight as the boundary. The option
confidence, a margin in logits, is that goal's: ``goal_of`` passes it on.

Known failures: where the gradient is exactly zero a row goes a random way; models that hide their gradient need
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
from actsec.geometry import boxed, finite_rows, free, spread, steepest
from actsec.geometry import size as size_of
from actsec.losses import Margin, graded, likely, margin
from actsec.types import Ask, Cases, Knowledge, Norm, Reply

_SCOUT_STEPS = 8
_SCOUT_GAMMA = 0.2
_SCOUT_FIRST, _WALK_FIRST, _LAST_STEP = 2.0, 1.0, 0.01
_WORTH = 1.5
_LOST = 1.25
_GAINS = 0.99
_BISECT_FROM = 0.8
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class MinimalL2State:
    """Per row: the candidate, the best success and its size, the radius and the most it can be (n,).

    target and reach (n, targets) are the classes and the first-order distances to them; looks and scouts (n,) say how
    many of them the row looks at and sends a scout to, turn how many questions it has asked; low is the share of the
    best's way that failed; mark is the best size at the middle of this walk, walks how many were made before it.
    """

    x: Tensor
    best: Tensor
    size: Tensor
    radius: Tensor
    limit: Tensor
    target: Tensor
    reach: Tensor
    looks: Tensor
    scouts: Tensor
    turn: Tensor
    low: Tensor
    mark: Tensor
    walks: Tensor
    done: Tensor


@dataclass(frozen=True, slots=True)
class MinimalL2:
    """Look at every likely class, scout the near ones, walk from the best, bisect to the boundary."""

    steps: Annotated[int, "gradient steps of a walk"] = 40
    walks: Annotated[int, "walks, at most: another follows one whose second half gained more than a hundredth"] = 4
    targets: Annotated[int, "likeliest other classes whose distance is estimated"] = 9
    scouts: Annotated[int, "of them, the most that a scout is sent to"] = 5
    refine: Annotated[int, "bisections to the boundary"] = 10
    gamma: Annotated[float, "share that a walk's radius changes by at first; it decays with the step"] = 0.1
    confidence: Annotated[float, "margin in logits that a success must have"] = 0.0

    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ("minimal",)

    def __post_init__(self) -> None:
        if min(self.steps, self.walks, self.scouts) < 1 or self.scouts > self.targets or self.refine < 0:
            raise BadOption(
                f"minimal_l2(steps={self.steps}, walks={self.walks}, targets={self.targets}, scouts={self.scouts}, "
                f"refine={self.refine})",
                "steps, walks and scouts are at least 1, targets at least scouts, refine at least 0.",
            )
        if not 0 < self.gamma < 1:
            raise BadOption(
                f"minimal_l2(gamma={self.gamma})",
                "gamma lies in (0, 1).",
            )
        if self.confidence < 0:
            raise BadOption(f"minimal_l2(confidence={self.confidence})", "confidence is at least 0.")

    def passes(self, shape: tuple[int, ...]) -> int:
        """Forwards and twice the backwards of an image, at most."""
        return 3 * (self.targets + _SCOUT_STEPS * self.scouts + self.walks * self.steps) + self.refine

    def start(self, cases: Cases, draws: Draws) -> MinimalL2State:
        turn = torch.zeros_like(cases.id)
        far = torch.full_like(cases.eps, torch.inf)
        room = torch.maximum((cases.high - cases.x).abs(), (cases.x - cases.low).abs())
        return MinimalL2State(
            x=cases.x,
            best=cases.x,
            size=far,
            radius=far,
            limit=torch.minimum(cases.eps, size_of(room, "l2")),
            target=cases.target[:, None].repeat(1, self.targets),
            reach=far[:, None].repeat(1, self.targets),
            looks=torch.full_like(turn, self.targets),
            scouts=torch.full_like(turn, self.scouts),
            turn=turn,
            low=torch.full_like(far, _BISECT_FROM),
            mark=far,
            walks=turn,
            done=turn > 0,
        )

    def ask(self, state: MinimalL2State, cases: Cases) -> Ask:
        # The walk leaves the label behind, wherever that leads: to another class than the scout's, if that is nearer.
        walk = self._walks_from(state)
        leg = torch.where(state.turn < state.looks, state.turn, (state.turn - state.looks) // _SCOUT_STEPS)
        aim = state.target.gather(1, leg.clamp(max=self.targets - 1)[:, None])
        aim = torch.where((state.turn < walk)[:, None], aim, cases.target[:, None])
        return Ask(state.x[:, None], Margin(), state.turn < walk + self.steps, aim)

    def tell(self, state: MinimalL2State, reply: Reply, cases: Cases, draws: Draws) -> MinimalL2State:
        size, success = reply.size[:, 0], reply.success[:, 0]
        nearer = success & (size < state.size) & (size > 0)
        state = replace(
            state,
            best=torch.where(spread(nearer, state.x), state.x, state.best),
            size=torch.where(nearer, size, state.size),
        )
        looked, refining = state.turn < state.looks, state.turn >= self._walks_from(state) + self.steps
        x, radius = self._stepped(state, reply, cases, draws)
        # The best moves with every success of the bisection, so the failed share is kept relative to it.
        tried = (state.low + 1) / 2
        low = torch.where(refining, torch.where(nearer, state.low / tried, tried), state.low)
        state = replace(self._looked(state, reply, cases) if bool(looked.any()) else state, low=low)
        return self._next(self._again(replace(state, turn=state.turn + 1)), x, radius, cases)

    def _walks_from(self, state: MinimalL2State) -> Tensor:
        """The turn (n,) of the walk's first question."""
        return state.looks + _SCOUT_STEPS * state.scouts

    def _looked(self, state: MinimalL2State, reply: Reply, cases: Cases) -> MinimalL2State:
        """What the rows that were just looked at learn: their classes, one more distance, at last the order."""
        first, at = state.turn == 0, state.turn.clamp(max=self.targets - 1)[:, None]
        target = torch.where(first[:, None], likely(reply.logits[:, 0], cases, self.targets), state.target)
        classes = reply.logits.shape[-1] - 1
        looks = torch.where(cases.target >= 0, 1, min(self.targets, classes)).to(state.looks)
        looks = torch.where(first, looks, state.looks)
        need, gradient = _need(reply, cases)
        slope = size_of(free(gradient, cases.x, cases), "l2")
        distance = (need.clamp_min(0) / slope.clamp_min(_TINY)).nan_to_num(torch.inf)
        before = state.reach.gather(1, at)
        reach = state.reach.scatter(1, at, torch.where((state.turn < looks)[:, None], distance[:, None], before))
        over = state.turn == looks - 1
        order = torch.where(over[:, None], reach.argsort(dim=1, stable=True), torch.arange(self.targets).to(at))
        near = (reach <= _WORTH * reach.amin(1, keepdim=True)).sum(1).clamp(max=self.scouts)
        return replace(
            state,
            target=target.gather(1, order),
            reach=reach.gather(1, order),
            looks=looks,
            scouts=torch.where(over, torch.minimum(near, looks), state.scouts),
        )

    def _stepped(self, state: MinimalL2State, reply: Reply, cases: Cases, draws: Draws) -> tuple[Tensor, Tensor]:
        """One step of scout or walk: the next candidates (n, *shape) and radii (n,)."""
        need, slopes = _need(reply, cases)
        gradient = free(slopes, state.x, cases)
        slope = size_of(gradient, "l2")
        stuck = slope == 0
        if bool(stuck.any()):
            lost = draws.normal(cases.id, state.turn, tuple(cases.x.shape[1:]))
            gradient = torch.where(spread(stuck, gradient), lost, gradient)
        walk, scouted = self._walks_from(state), state.turn - state.looks
        walks = state.turn >= walk
        share = torch.where(walks, (state.turn - walk) / self.steps, scouted % _SCOUT_STEPS / _SCOUT_STEPS).double()
        decay = _LAST_STEP + (1 - _LAST_STEP) * (1 + torch.cos(math.pi * share)) / 2
        gamma = decay * torch.where(walks, self.gamma, _SCOUT_GAMMA)
        grown = torch.where(torch.isinf(state.size), torch.full_like(gamma, _LOST), 1 + gamma)
        radius = state.radius * torch.where(reply.success[:, 0], 1 - gamma, grown)
        ahead = reply.size[:, 0] + need.abs() / slope.clamp_min(_TINY)
        radius = torch.minimum(torch.where(torch.isinf(state.radius), ahead, radius), state.limit)
        length = decay * torch.where(walks, _WALK_FIRST, _SCOUT_FIRST) * radius
        moved = state.x - cases.x + steepest(gradient, "l2") * spread(length, gradient).to(gradient.dtype)
        return _on_sphere(cases, moved, radius), radius

    def _again(self, state: MinimalL2State) -> MinimalL2State:
        """Rows at the end of a walk that was still gaining ground go back to its beginning."""
        walk = self._walks_from(state)
        half = state.turn == walk + self.steps // 2
        gains = (state.turn == walk + self.steps) & (state.size < _GAINS * state.mark)
        again = gains & (state.walks < self.walks - 1)
        return replace(
            state,
            mark=torch.where(half, state.size, state.mark),
            walks=state.walks + again.to(state.walks),
            turn=torch.where(again, walk, state.turn),
        )

    def _next(self, state: MinimalL2State, x: Tensor, radius: Tensor, cases: Cases) -> MinimalL2State:
        """The next question: another look or a new scout begin at x, the walk at the best, the others go on."""
        walk, scouted = self._walks_from(state), state.turn - state.looks
        fresh = (scouted < 0) | ((state.turn < walk) & (scouted % _SCOUT_STEPS == 0))
        home = (state.turn == walk) & torch.isfinite(state.size)
        refining = state.turn >= walk + self.steps
        halfway = spread((state.low + 1) / 2, x).to(x.dtype)
        toward = boxed(cases, cases.x + (state.best - cases.x) * halfway)
        x = torch.where(spread(fresh, x), cases.x, torch.where(spread(home, x), state.best, x))
        return replace(
            state,
            x=torch.where(spread(refining, x), toward, x),
            radius=torch.where(fresh, torch.inf, torch.where(home, state.size, radius)),
            done=(state.turn >= walk + self.steps + self.refine) | (refining & torch.isinf(state.size)),
        )


def _need(reply: Reply, cases: Cases) -> tuple[Tensor, Tensor]:
    """How much the margin must still rise (n,) float64, and its gradient (n, *shape) with useless rows set to 0."""
    loss, gradient = graded(reply)
    level = margin(reply.logits[:, 0], cases) - reply.score[:, 0]
    return (level - loss[:, 0]).double().nan_to_num(torch.inf), finite_rows(gradient[:, 0])


def _on_sphere(cases: Cases, delta: Tensor, radius: Tensor) -> Tensor:
    """x + delta (n, *shape) at the radius, cut to the box. What is cut off the other coordinates make up, once."""
    for _ in range(2):
        length = size_of(delta, "l2")
        scale = torch.where(length > 0, radius / length, torch.ones_like(length))
        placed = boxed(cases, cases.x + delta * spread(scale, delta).to(delta.dtype))
        delta = placed - cases.x
    return placed
