"""Fitting a chain of defenses, each on what the ones before it left, with the time that is left told as it goes."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from actsec import registry
from actsec.detecting import behind
from actsec.running.progress import Progress, Tell
from actsec.types import Checkpoint, Defense, Fitted, Material, Target

LITTLE = 0.5
"""Seconds between two looks at the clock while a model is trained."""


def fit_chain(
    target: Target,
    chain: Sequence[Defense],
    material: Material,
    tell: Tell = lambda _: None,
    checkpoint: Callable[[int], Checkpoint | None] = lambda _: None,
) -> tuple[Target, tuple[Fitted, ...], tuple[float, ...]]:
    """The target behind a chain of defenses, each wrapped and fitted in turn; what each fit found, and its seconds.

    checkpoint says by the defense's number, from 0, where its training is kept: of a chain that was interrupted, those
    that had ended are taken up at their end. What cannot train or be wrapped is refused before anything is fitted.
    """
    for defense in chain:
        registry.check_inner(defense)
    fits, seconds = [], []
    for number, defense in enumerate(chain, 1):
        target = behind(target, defense)
        began = time.monotonic()
        name = type(defense).__module__.rpartition(".")[2]
        label = f"{name} ({number} of {len(chain)})" if len(chain) > 1 else name
        rows = 0 if material.train is None else len(material.train.y)
        epochs = getattr(defense, "epochs", getattr(defense, "finetune", 0))
        with _watched(target.model, _Clock(label, rows, epochs, tell)) as told:
            own = dataclasses.replace(material, tell=told, checkpoint=checkpoint(number - 1))
            fits.append(defense.fit(target, own))
        seconds.append(round(time.monotonic() - began, 1))
    return target, tuple(fits), tuple(seconds)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """The plan's thread count, which moves the last bit of a sum; the caller's own afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _watched(model: nn.Module, clock: _Clock) -> Iterator[Callable[[str, int, int], None]]:
    """What a defense tells its progress to. Between two tellings the rows that it trains on are counted."""
    handle = model.register_forward_pre_hook(clock.passed)
    try:
        yield clock.told
    finally:
        handle.remove()


class _Clock:
    """Where a defense stands: epochs done, rows since, and the time left by the pace so far.

    rows is how many it trains on in an epoch, at most; epochs is 0 where it trains nothing.
    """

    def __init__(self, label: str, rows: int, epochs: int, tell: Tell) -> None:
        self.label, self.rows, self.total, self.tell, self.text = label, rows, epochs, tell, label
        self.began = self.looked = time.monotonic()
        self.done = self.seen = 0

    def told(self, text: str, done: int, total: int) -> None:
        """A defense says how far it is."""
        self.done, self.total, self.seen = done, total, 0
        self.text = f"{self.label}: {text.partition(': ')[2] or text}"
        self.say()

    def passed(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        """The model is about to see a batch."""
        if model.training and inputs and isinstance(inputs[0], Tensor):
            self.seen += len(inputs[0])
        if time.monotonic() - self.looked >= LITTLE:
            self.say()

    def say(self) -> None:
        self.looked = time.monotonic()
        part = min(self.seen / self.rows, 1.0) if self.rows else 0.0
        share = (self.done + part) / max(self.total, 1)
        left = (self.looked - self.began) * (1 - share) / share if share else None
        self.tell(Progress(self.done, self.total, self.text, left))
