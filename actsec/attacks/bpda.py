"""BPDA: PGD through steps that have no derivative, as if they were the identity (Athalye, Carlini & Wagner 2018).

Rounding (quantised inputs), signs, detached tensors and ``no_grad`` blocks keep their value in the forward pass and let
the gradient through unchanged in the backward pass (section 4.1; straight-through estimator, Bengio et al. 2013).
``around`` names modules that are stepped over as a whole, such as a preprocessing step or a step activation: by the
identity where the shape stays, by slopes measured along ``directions`` random directions otherwise (each costs two
forwards of that module, not counted). Only the search runs on this stand-in; every success is the model's own.

Cost: restarts * steps forwards and backwards, and a forward of the model for each success to be confirmed. Known
failures: where the identity is far from the step (JPEG at low quality, a permutation) the gradient points elsewhere; a
model that leaves torch (numpy inside) needs ``around``, or ``averaged_differences``, which needs no graph at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from actsec.attacks.pgd import PGD
from actsec.errors import BadOption
from actsec.types import Attack, Cases, Knowledge, Norm


@dataclass(frozen=True, slots=True)
class BPDA:
    """PGD with the derivative of the identity where the model has none."""

    around: Annotated[tuple[str, ...], "modules stepped over as a whole, by name"] = ()
    directions: Annotated[int, "measured slopes of such a module; 0 is the identity where the shape stays"] = 0
    steps: Annotated[int, "gradient steps of each restart"] = 40
    restarts: Annotated[int, "random starts tried"] = 2
    loss: Annotated[Literal["cross_entropy", "margin"], "what is climbed"] = "margin"

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ("iterative", "straight_through")

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.directions < 0:
            raise BadOption(
                f"bpda(steps={self.steps}, restarts={self.restarts}, directions={self.directions})",
                "steps and restarts are at least 1, directions at least 0.",
            )

    def passes(self, shape: tuple[int, ...]) -> int:
        """Forwards and twice the backwards of an image that stands."""
        return 3 * self.restarts * self.steps

    def parts(self, cases: Cases, classes: int) -> tuple[Attack[Any], ...]:
        return (PGD(self.steps, restarts=self.restarts, loss=self.loss),)
