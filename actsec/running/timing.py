"""How long a model takes: facts about the machine of a run, which belong to ``environment`` and never to ``result``."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from actsec.search.oracle import frozen
from actsec.types import Target

ROWS = 32
FEWEST, MOST, SECONDS = 3, 30, 1.0
"""Measurements taken: at least so many, at most so many, and no more once so many seconds are over."""


def latency_ratio(base: Target, other: Target, x: Tensor) -> float:
    """The time of one call of ``other`` over that of ``base`` on x (n, *shape): the median over calls in turn.

    Taken in turn, first, last, last, first, by the clock of ``clock``. The first four, which warm up, do not count.
    """

    def ratio() -> float:
        first, *others, last = (_seconds(partial(target.logits, x)) for target in (base, other, other, base))
        return sum(others) / (first + last)

    with frozen(base.model), frozen(other.model), torch.no_grad():
        return median(_measured(ratio))


def seconds_per_pass(target: Target, x: Tensor, y: Tensor) -> float:
    """Seconds that a pass of one image takes in training, a backward counting as two: the median over updates.

    On a copy, in the mode of the model, with the gradients of all its weights.
    """
    copied = target.having(model=deepcopy(target.model))
    for parameter in copied.model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())

    def update() -> None:
        loss = F.cross_entropy(copied.logits(x), y)
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        return median(_measured(lambda: _seconds(update))) / (3 * len(x))


def _measured(once: Callable[[], float]) -> list[float]:
    once()
    began = time.perf_counter()
    found: list[float] = []
    while len(found) < FEWEST or (len(found) < MOST and time.perf_counter() - began < SECONDS):
        found.append(once())
    return found


def _seconds(call: Callable[[], object]) -> float:
    now = clock()
    began = now()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return max(now() - began, 1e-9)


def clock() -> Callable[[], float]:
    """A clock: the processor time of this process where it is the time a call takes alone: one thread, no accelerator.

    Where workers share a core a wall clock tells mostly who was interrupted: it gave the same two models ratios from
    0.3 to 22.
    """
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time if alone else time.perf_counter
