"""Randomised smoothing: the class that most noisy copies of the input are given, with a radius that can be certified.

g(x) = argmax_c P(f(x + N) = c), N ~ N(0, std^2) on every input value, in input units and not clipped to the box (Cohen,
Rosenfeld & Kolter 2019, equation 1). Where the top class has probability p > 1/2, nothing within std * Phi^-1(p) in L2
changes g (their theorem 1 with p_B <= 1 - p_A). The audit bounds p from below by their CERTIFY
(actsec.search.certificates); g itself is not computable, so each answer is the vote of ``draws`` fresh copies,
and accuracies are means over answers.

Logits: log of (votes + mean probability) / (draws + 1). The votes decide, as in g; the mean probability breaks ties and
keeps every class finite. A count has no slope, so the backward pass is that of the log of the mean probability over the
draws, the surrogate that SmoothAdv attacks (Salman et al. 2019, equation 6): the gradient is handed out, not hidden.
Attacks average over fresh draws besides (EOT). A decision threshold is moved into the votes.

finetune epochs train on one noisy copy of each example an update, without which f is seldom right under the noise; to
train on attacked copies (SmoothAdv) write ``smoothing(...) | adversarial_training(norm=l2, ...)``.

Cost at inference: draws forwards. Fine-tuned: one forward and one backward of the training split an epoch.

Known failures: the certificate speaks of g in the L2 norm alone, holds for each image with the probability that the
report states, and is void after another defense that can change a decision (vector_scaling); of a model that was never
trained under the noise little can be certified; a vote of few draws is itself random where the vote is close.
"""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actsec.activations.following import Stands
from actsec.defenses._heads import columns, pivot_of
from actsec.defenses._learning import fine_tuned, learn, recipe_of, require, split_of
from actsec.types import Fitted, Material, Target


class Smoothed(Stands):
    """A model that answers by the vote of noisy copies; in train mode it is the model on one noisy copy a row.

    ``scale`` is the noise's standard deviation in the units of the model's own input, ``std`` the same in input units.
    ``pivot`` is subtracted from the second of two logits before each copy votes. Draws come from torch's global state.
    """

    scale: Tensor

    def __init__(
        self, model: nn.Module, scale: Tensor, std: float, draws: int, output: str | None, pivot: float
    ) -> None:
        super().__init__()
        self.model, self.stands = model, nn.ModuleDict()
        self.std, self.draws, self.output, self.pivot = std, draws, output, pivot
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return self._answers(x)
        z = self._decisions(x.repeat_interleave(self.draws, 0)).reshape(len(x), self.draws, -1)
        votes = F.one_hot(z.argmax(-1), z.shape[-1]).sum(1)
        mean = z.log_softmax(-1).logsumexp(1) - math.log(self.draws)
        shares = torch.logaddexp(votes.to(mean.dtype).log(), mean) - math.log(self.draws + 1)
        return mean + (shares - mean).detach()

    def vote(self, x: Tensor) -> Tensor:
        """The class (m,) that the model gives one fresh noisy copy of each input x (m, *shape)."""
        return self._decisions(x).argmax(-1)

    def _decisions(self, x: Tensor) -> Tensor:
        z = self._answers(x)
        return z - z.new_tensor([0.0, self.pivot]) if self.pivot else z

    def _answers(self, x: Tensor) -> Tensor:
        return columns(self.model(x + self.scale.to(x.dtype) * torch.randn_like(x)), self.output)


@dataclass(frozen=True, slots=True)
class Smoothing:
    """Randomised smoothing with Gaussian noise."""

    std: Annotated[float, "standard deviation of the noise, in input units"]
    draws: Annotated[int, "noisy copies that vote on one answer"] = 16
    finetune: Annotated[int, "epochs of training under the noise; 0 leaves the weights"] = 0
    learning_rate: Annotated[float, "the highest learning rate of fine-tuning"] = 1e-3
    batch_size: Annotated[int, "examples an update of fine-tuning"] = 64
    weight_decay: Annotated[float, "L2 penalty of fine-tuning"] = 0.0

    claims: ClassVar[str] = (
        "Certifies a radius in L2 around each image on which its vote is sure, and nothing in any other norm; it costs "
        "clean accuracy and many forwards an answer."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "robustness"
    randomises: ClassVar[bool] = True
    certifies: ClassVar[bool] = True
    adaptive: ClassVar[tuple[str, ...]] = ("pgd(loss=margin)",)

    def __post_init__(self) -> None:
        require(0 < self.std < float("inf"), "smoothing(std=...)", self.std, "a positive number such as 0.25")
        require(self.draws >= 1, "smoothing(draws=...)", self.draws, "a number of votes such as 16")
        fine_tuned(self)

    @property
    def needs(self) -> Literal["nothing", "calibration", "train"]:
        """``train`` when it fine-tunes, otherwise nothing."""
        return "train" if self.finetune else "nothing"

    def wrap(self, target: Target) -> Target:
        """The target behind the vote, stochastic from now on and without a threshold: the votes decide."""
        scale = torch.tensor(self.std)
        if target.normalization is not None:  # the model sees (x - mean) / std, so the noise is divided as well
            scale = scale / torch.tensor(target.normalization.std).view(-1, *(1,) * (len(target.shape) - 1))
        model = Smoothed(
            deepcopy(target.model), scale.to(target.device), self.std, self.draws, target.output, pivot_of(target)
        )
        model.training = model.stands.training = target.model.training
        return target.having(model=model, output=None, threshold=None, stochastic=True, draws=target.draws * self.draws)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Fine-tune under the noise where asked. Raises DataError without a training split then."""
        own = {"std": self.std, "draws": self.draws}
        if not self.finetune:
            note = "No weight was trained under the noise."
            return Fitted({**own, "epochs": 0, "forwards": 0, "backwards": 0}, (note,))
        split = split_of(material, "train", "smoothing")
        return Fitted({**own, **learn(target, split, recipe_of(self, material.seed), material, "smoothing")})
