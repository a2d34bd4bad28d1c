"""Replay: propose the attacked examples of an earlier run, and see whom they still fool.

A regression check in seconds: the model before and after a change, the float model and the deployed one, yesterday's
defense and today's. Every finished attack outcome of the run counts, of whichever variant, for the rows of equal
content (ids are hashes of the inputs), those that fooled their own model first; only what lies inside the threat's ball
and box is asked. No paper: it is the stored half of a transfer attack (Szegedy et al. 2013, section 4.2). Cost: at most
``most`` forwards of each example, no gradient.

Works as an attack of a plan, in ``actsec attack`` and in ``actsec.attack``. The run is only read and nothing in it is
executed; a job's hash rests on what the run holds, not on where it lies. Known failure: a row that nothing was found
for is one that the earlier run left, not one that is robust; a replay alone supports no robustness claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from actsec.errors import BadOption
from actsec.search import examples
from actsec.types import NORMS, Attack, Cases, Knowledge, Norm


@dataclass(frozen=True, slots=True)
class Replay:
    """The examples of an earlier run."""

    run: Annotated[str, "folder of the run"]
    most: Annotated[int, "examples tried of each row; those that fooled their own model come first"] = 64

    norms: ClassVar[tuple[Norm, ...]] = NORMS
    knowledge: ClassVar[Knowledge] = "black_box"
    roles: ClassVar[tuple[str, ...]] = ("any_eps",)

    def __post_init__(self) -> None:
        if self.most < 1:
            raise BadOption(f"replay(most={self.most})", "most is at least 1.")

    def content(self) -> dict[str, str]:
        """The options that name something outside the plan, by its content. Raises StoreError."""
        return {"run": examples.digest(self.run)}

    def parts(self, cases: Cases, classes: int) -> tuple[Attack[Any], ...]:
        return (examples.proposed(examples.of_run(self.run), cases, self.most),)
