"""Noisy inference: fresh Gaussian noise on every input, at every forward, whoever asks.

logits(x) = model(x + n), n ~ N(0, std^2) per input value, in input units and not clipped to the box. The target becomes
stochastic: it is attacked with the gradient averaged over many draws (expectation over transformation, Athalye et al.
2018) and judged by its mean accuracy over fresh draws, never by its worst draw. Not trained by default; finetune epochs
train the weights under the same noise, without which most networks lose clean accuracy.

Cost at inference: none beyond the draws. Fine-tuned: one forward and one backward of the training split an epoch.

Known failures: against an attack that asks once the noise looks stronger than it is; the mean over draws is no vote and
no certificate (for that see Cohen, Rosenfeld & Kolter 2019, randomized smoothing).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from actsec.activations.following import Stands
from actsec.defenses._learning import learn, require, split_of
from actsec.training import Recipe
from actsec.types import Fitted, Material, Target


class Noisy(Stands):
    """A model that adds noise to what it is given, in train and eval mode alike. Its activations keep their names.

    ``scale`` is the noise's standard deviation in the units of the model's own input: one number, or one a channel.
    The draws come from the global random state of torch.
    """

    scale: Tensor

    def __init__(self, model: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.model, self.stands = model, nn.ModuleDict()
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, x: Tensor) -> Any:
        return self.model(x + self.scale.to(x.dtype) * torch.randn_like(x))


@dataclass(frozen=True, slots=True)
class NoisyInference:
    """Gaussian noise on the inputs at inference."""

    std: Annotated[float, "standard deviation of the noise, in input units"]
    finetune: Annotated[int, "epochs of training under the noise; 0 leaves the weights"] = 0
    learning_rate: Annotated[float, "the highest learning rate of fine-tuning"] = 1e-3
    batch_size: Annotated[int, "examples an update of fine-tuning"] = 64
    weight_decay: Annotated[float, "L2 penalty of fine-tuning"] = 0.0

    claims: ClassVar[str] = (
        "Makes every answer random, which can raise mean accuracy under attack; only attacks that average over the "
        "noise say by how much, and nothing is certified."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "robustness"
    randomises: ClassVar[bool] = True
    adaptive: ClassVar[tuple[str, ...]] = ("pgd(loss=margin)",)

    def __post_init__(self) -> None:
        require(0 < self.std < float("inf"), "noisy_inference(std=...)", self.std, "a positive number such as 0.1")
        require(self.finetune >= 0, "noisy_inference(finetune=...)", self.finetune, "0 or a number of epochs")
        if self.finetune:
            self._recipe(0)

    @property
    def needs(self) -> Literal["nothing", "calibration", "train"]:
        """``train`` when it fine-tunes, otherwise nothing."""
        return "train" if self.finetune else "nothing"

    def wrap(self, target: Target) -> Target:
        """The target with noise before its model, stochastic from now on."""
        scale = torch.tensor(self.std)
        if target.normalization is not None:  # the model sees (x - mean) / std, so the noise is divided as well
            scale = scale / torch.tensor(target.normalization.std).view(-1, *(1,) * (len(target.shape) - 1))
        model = Noisy(deepcopy(target.model), scale.to(target.device))
        model.training = model.stands.training = target.model.training
        return target.having(model=model, stochastic=True)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Fine-tune under the noise where asked. Raises DataError without a training split then."""
        if not self.finetune:
            note = "No weight was trained under the noise."
            return Fitted({"std": self.std, "epochs": 0, "forwards": 0, "backwards": 0}, (note,))
        split = split_of(material, "train", "noisy_inference")
        numbers = learn(target, split, self._recipe(material.seed), material, "noisy_inference")
        return Fitted({"std": self.std, **numbers})

    def _recipe(self, seed: int) -> Recipe:
        return Recipe(
            epochs=self.finetune,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            seed=seed,
        )
