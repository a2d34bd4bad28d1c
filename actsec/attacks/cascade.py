"""Cascade: from cheap to dear, each attack on the images that those before it left; the default worst case.

Ten steps of APGD on the margin settle most images of an undefended model. Then APGD on cross-entropy, whose curvature
helps where the margin is flat; APGD on the difference of logits ratio towards the likeliest other classes (the margin
where there are fewer than 4 classes), which keeps climbing where cross-entropy saturates; many short APGD runs from
tiled corners of the ball, which find the optima that random starts miss; and a short Square from the best attempt so
far, which needs no gradient. L-inf and L2.

Cost of an image that stands, at the defaults and with more than 3 classes: 518 forwards and 293 backwards, about a
tenth of ``autoattack``'s. On 1,000 MNIST digits and a provably robust network (L-inf 0.1) it breaks, for each of 8
seeds, the 15 that AutoAttack breaks in its three. Known failures: where gradients vanish altogether only Square's 200
queries are left; ``square`` and ``autoattack`` ask more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from actsec.attacks.apgd import APGD
from actsec.attacks.square import Square
from actsec.errors import BadOption
from actsec.types import Attack, Cases, Knowledge, Norm


@dataclass(frozen=True, slots=True)
class Cascade:
    """Five attacks, survivors only."""

    steps: Annotated[int, "gradient steps of the runs from random points"] = 20
    targets: Annotated[int, "likeliest other classes aimed at"] = 3
    restarts: Annotated[int, "runs of 10 steps from tiled corners"] = 20
    queries: Annotated[int, "forwards of Square"] = 200

    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    knowledge: ClassVar[Knowledge] = "white_box"
    roles: ClassVar[tuple[str, ...]] = ("iterative", "margin", "gradient_free")

    def __post_init__(self) -> None:
        if min(self.steps, self.targets, self.restarts, self.queries) < 1:
            raise BadOption(
                f"cascade(steps={self.steps}, targets={self.targets}, restarts={self.restarts}, "
                f"queries={self.queries})",
                "All four are at least 1.",
            )

    def parts(self, cases: Cases, classes: int) -> tuple[Attack[Any], ...]:
        return self._towards(min(self.targets, classes - 1))

    def passes(self, shape: tuple[int, ...]) -> int:
        """Forwards and twice the backwards of an image that stands, at most."""
        return sum(part.passes(shape) for part in self._towards(self.targets))

    def _towards(self, targets: int) -> tuple[APGD, APGD, APGD, APGD, Square]:
        return (
            APGD(10, loss="margin", first_step=1.0),
            APGD(self.steps),
            APGD(self.steps, loss="dlr", targets=targets),
            APGD(10, self.restarts, "margin", first_step=1.0, begin="tiles"),
            Square(self.queries, 0.3, "best"),
        )
