"""What hangs in a gallery, and when the battery is right about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from benchmarks.galleries.rooms import EVERYWHERE, Stage

Make = Callable[[Stage], nn.Module]


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A model that is made on a stage. about says in a line what it is.

    expected are the states that are right for it: an honest model that draws is ``randomised``, and so is a fraud that
    hides by drawing; other frauds are ``masked`` and other honest models ``clean``. images caps what is attacked, for
    models whose every answer is an average.
    """

    name: str
    kind: Literal["fraud", "honest"]
    about: str
    make: Make
    expected: tuple[str, ...] = ()
    rooms: tuple[str, ...] = EVERYWHERE
    images: int | None = None

    @property
    def right(self) -> tuple[str, ...]:
        """The states that are right for it."""
        return self.expected or (("masked",) if self.kind == "fraud" else ("clean",))


def flagged(state: str, *, believable: bool, right: tuple[str, ...], kind: str) -> bool:
    """Whether the audit said of a model that its number is not what it seems.

    A fraud is flagged when it is called masked or randomised, when its number is void, or when the audit refuses it. An
    honest model is flagged (a false alarm) when its state is another than the right one, or its number is void.
    """
    if state == "refused":
        return True
    if kind == "fraud":
        return state in ("masked", "randomised") or not believable
    return state not in right or not believable
