"""Activation swap: all or chosen activation calls compute another function, by itself or retrained.

Three things under one name, told apart by two options and judged apart. Straight (the default): the old weights under a
new activation, which is not a defense. Recalibrated: batch-norm statistics are estimated anew on the training split,
since a new activation shifts what every later layer sees. Fine-tuned: all weights are trained for some epochs at a low
learning rate, after recalibration where both are asked for. Published gains come with adversarial training of the new
network (Xie et al. 2020, "Smooth adversarial training"; Dai et al. 2021), not from the swap.

Cost: nothing; recalibrated, one forward of the training split; fine-tuned, one forward and one backward of it an epoch.

Known failures: tanh, sigmoid and softplus in place of relu wreck a network that is not fine-tuned; kwta masks
gradients, so only gradient-free attacks measure it; relu6 is bounded and saturates where relu does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch

from actsec import training
from actsec.activations import activation, replace
from actsec.activations.replacing import Swapped
from actsec.defenses._learning import Asked, learn, require, split_of
from actsec.draws import Draws
from actsec.errors import ModelError
from actsec.spec import Spec
from actsec.training import Recipe
from actsec.types import Fitted, Material, Target


@dataclass(frozen=True, slots=True)
class Swap:
    """Another activation function at all or chosen sites."""

    to: Annotated[Spec, "any activation of the catalogue, with its options"]
    sites: Annotated[str | tuple[str, ...], "names of the calls to replace: a glob, or a list of globs"] = "*"
    recalibrate: Annotated[bool, "estimate batch-norm statistics anew on the training split"] = False
    finetune: Annotated[int, "epochs of training after the swap; 0 leaves the weights"] = 0
    learning_rate: Annotated[float, "the highest learning rate of fine-tuning"] = 1e-3
    batch_size: Annotated[int, "examples an update of fine-tuning"] = 64
    weight_decay: Annotated[float, "L2 penalty of fine-tuning"] = 0.0

    claims: ClassVar[str] = (
        "Changes which units can die or saturate; without fine-tuning it is not a defense, and with it any gain must "
        "show in attacks on the swapped model."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "robustness"
    adaptive: ClassVar[tuple[str, ...]] = ("pgd(loss=margin)", "square")

    def __post_init__(self) -> None:
        activation(self.to)
        require(self.finetune >= 0, "swap(finetune=...)", self.finetune, "0 or a number of epochs")
        if self.finetune:
            self._recipe(0)

    @property
    def needs(self) -> Literal["nothing", "calibration", "train"]:
        """``train`` when it recalibrates or fine-tunes, otherwise nothing."""
        return "train" if self.recalibrate or self.finetune else "nothing"

    def wrap(self, target: Target) -> Target:
        """The target with the chosen calls replaced. Raises UnknownName, listing the sites, for a glob without one."""
        return target.having(
            model=replace(
                target.model,
                activation(self.to),
                only=None if self.sites == "*" else self.sites,
                example=example_of(target),
            )
        )

    def fit(self, target: Target, material: Material) -> Fitted:
        """Recalibrate and fine-tune as asked. Raises DataError without a training split where one is needed."""
        if not isinstance(target.model, Swapped):
            raise ModelError("swap is fitted to a model it has not wrapped", "Call wrap(target) first.")
        numbers: dict[str, Any] = {"to": str(self.to), "sites": len(target.model.stands), "epochs": 0}
        notes = []
        if self.needs == "nothing":
            notes.append("Straight swap: no weight was trained, so it is not a defense.")
            return Fitted({**numbers, "forwards": 0, "backwards": 0}, tuple(notes))
        split = split_of(material, "train", "swap")
        recalibrated = 0
        if self.recalibrate:
            material.tell("swap: batch-norm statistics", 0, 1)
            recalibrated = training.recalibrate_batchnorm(Asked(target), split.x)
            if not recalibrated:
                notes.append("The model has no batch-norm layer, so there was nothing to recalibrate.")
        forwards = len(split.y) if recalibrated else 0
        numbers |= {"batch_norm_layers_recalibrated": recalibrated, "forwards": forwards, "backwards": 0}
        if self.finetune:
            learnt = learn(target, split, self._recipe(material.seed), material, "swap")
            numbers |= {**learnt, "forwards": forwards + learnt["forwards"]}
        else:
            notes.append("No weight was trained, so it is not a defense.")
        return Fitted(numbers, tuple(notes))

    def _recipe(self, seed: int) -> Recipe:
        return Recipe(
            epochs=self.finetune,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=seed,
        )


def example_of(target: Target) -> torch.Tensor:
    """Two inputs as the model sees them: uniform in the box, always the same, normalised."""
    low, high = target.bounds
    drawn = Draws(0, "example").uniform(torch.arange(2, device=target.device), 0, target.shape)
    x = low + (high - low) * drawn
    return target.normalization(x) if target.normalization else x
