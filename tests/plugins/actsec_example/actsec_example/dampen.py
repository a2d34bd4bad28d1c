"""Dampen: less contrast before the model, which shrinks every change of the input alike.

x' = middle + factor * (x - middle). Nothing is learned and nothing is hidden: an attack follows its gradient as before.
Known failure: a model trained on full contrast loses accuracy, and gains nothing that it would not lose again.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor, nn

from actsec.activations.following import Stands
from actsec.errors import BadOption
from actsec.types import Fitted, Material, Target


class Dampened(Stands):
    """A model behind less contrast. As a Stands it keeps the names of the activation calls inside."""

    def __init__(self, model: nn.Module, factor: float, middle: float) -> None:
        super().__init__()
        self.model, self.stands = model, nn.ModuleDict()
        self.factor, self.middle = factor, middle

    def forward(self, x: Tensor) -> Any:
        return self.model(self.middle + self.factor * (x - self.middle))


@dataclass(frozen=True, slots=True)
class Dampen:
    """Contrast times a factor."""

    factor: Annotated[float, "what contrast is multiplied by"] = 0.5

    needs: ClassVar[Literal["nothing", "calibration", "train"]] = "nothing"
    claims: ClassVar[str] = "Shrinks every change alike and hides no gradient; what it gains must show under attack."
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "robustness"
    adaptive: ClassVar[tuple[str, ...]] = ("pgd(loss=margin)",)

    def __post_init__(self) -> None:
        if not 0 < self.factor <= 1:
            raise BadOption(f"dampen(factor={self.factor})", "factor lies in (0, 1].")

    def wrap(self, target: Target) -> Target:
        """The target behind less contrast; the given one is untouched."""
        middle = sum(target.bounds) / 2 if target.normalization is None else 0.0
        model = Dampened(deepcopy(target.model), self.factor, middle)
        model.training = model.stands.training = target.model.training
        return target.having(model=model)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Nothing is learned."""
        return Fitted({"factor": self.factor, "forwards": 0, "backwards": 0})
