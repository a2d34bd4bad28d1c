"""What the attacks that force units share: projected gradient ascent from the input itself on a count of units."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from actsec.errors import BadOption
from actsec.geometry import bounded, free, place, spread, steepest
from actsec.losses import graded
from actsec.types import Cases, Reply


@dataclass(frozen=True, slots=True)
class ForcingState:
    """The next candidate and the number of steps taken."""

    x: Tensor
    step: Tensor
    done: Tensor


def check(name: str, steps: int, step_size: float | None, width: float) -> None:
    """Raise BadOption for options that mean nothing."""
    if steps < 1 or not width > 0:
        raise BadOption(f"{name}(steps={steps}, width={width})", "steps is at least 1, width above 0.")
    if step_size is not None and not step_size > 0:
        raise BadOption(f"{name}(step_size={step_size})", "step_size is above 0, or none.")


def begin(cases: Cases, name: str) -> ForcingState:
    """The state before the first question: the input itself."""
    bounded(cases, name)
    step = torch.zeros_like(cases.id)
    return ForcingState(cases.x, step, step.bool())


def climb(state: ForcingState, reply: Reply, cases: Cases, steps: int, step_size: float | None) -> ForcingState:
    """One step of ascent, at 2.5 * eps / steps where no step size is given."""
    direction = steepest(free(graded(reply)[1][:, 0], state.x, cases), cases.norm)
    length = cases.eps * 2.5 / steps if step_size is None else torch.full_like(cases.eps, step_size)
    x = place(cases, state.x + direction * spread(length, direction).to(direction.dtype) - cases.x)
    return replace(state, x=x, step=state.step + 1, done=state.step >= steps)
