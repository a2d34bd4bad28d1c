"""What a poison is given of its victim."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from actsec.types.defending import Split
from actsec.types.targets import Target

Enters = Literal["training", "scaler", "update"]


@dataclass(frozen=True, slots=True)
class Victim:
    """What a poisoner knows: the same network trained on clean rows, the rate of its gradient steps, a seed.

    One who knows the mitigation as well knows more: optimizer and clip_norm are those of the network's updates, and
    rehearse(split) is the mean cross-entropy on the clean rows that a training on a split leaves, made as the network's
    own is with every check it makes, but from another seed; infinity where it breaks off, minus infinity where a check
    drops all that was planted.
    """

    target: Target
    learning_rate: float
    seed: int = 0
    optimizer: Literal["sgd", "adam"] = "sgd"
    clip_norm: float | None = None
    rehearse: Callable[[Split], float] | None = None


class Poison(Protocol):
    """Train split to train split, judged by training twins. A frozen dataclass of options.

    enters is where the planted rows take effect: among the rows of a training from the beginning, there and in the
    standardisation fitted to them, or as the whole of a later update of a trained model.
    """

    enters: ClassVar[Enters]

    def count(self, train: Split) -> int:
        """How many rows it plants."""

    def poison(self, train: Split, victim: Victim) -> Split:
        """The rows of train as they were, and after them the planted ones, whose ids run down from -1."""
