"""AutoAttack: four attacks that fail in different ways, each on the images that those before it left.

APGD on cross-entropy, APGD towards the nine likeliest other classes, FAB towards the same, and Square (Croce & Hein
2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks", section 5:
the standard version, 100 steps each and 5,000 queries). The targeted loss is the difference of logits ratio, or the
margin where there are fewer than 4 classes: no part is left out. For L-inf and L2.

Cost of an image that stands, with nine targets: about 8,000 forwards and 1,900 backwards at least. ``cascade`` breaks
about as many images for a fraction; this recipe is the reference that numbers are compared by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from actsec.attacks.apgd import APGD
from actsec.attacks.fab import FAB
from actsec.attacks.square import Square
from actsec.errors import BadOption
from actsec.types import Attack, Cases, Knowledge, Norm


@dataclass(frozen=True, slots=True)
class AutoAttack:
    """The standard ensemble."""

    steps: Annotated[int, "gradient steps of each of the first three attacks"] = 100
    targets: Annotated[int, "likeliest other classes aimed at"] = 9
    queries: Annotated[int, "forwards of Square"] = 5000

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ("iterative", "margin", "gradient_free")

    def __post_init__(self) -> None:
        if self.steps < 1 or self.targets < 1 or self.queries < 1:
            raise BadOption(
                f"autoattack(steps={self.steps}, targets={self.targets}, queries={self.queries})",
                "All three are at least 1.",
            )

    def parts(self, cases: Cases, classes: int) -> tuple[Attack[Any], ...]:
        return self._towards(min(self.targets, classes - 1))

    def passes(self, shape: tuple[int, ...]) -> int:
        """Forwards and twice the backwards of an image that stands, at most."""
        return sum(part.passes(shape) for part in self._towards(self.targets))

    def _towards(self, targets: int) -> tuple[APGD, APGD, FAB, Square]:
        return (
            APGD(self.steps),
            APGD(self.steps, loss="dlr", targets=targets),
            FAB(self.steps, targets),
            Square(self.queries),
        )
