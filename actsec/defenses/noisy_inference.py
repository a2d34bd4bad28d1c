"""Noisy inference: fresh Gaussian noise at every forward, whoever asks. One option says where.

``at=input``: logits(x) = model(x + n), n ~ N(0, std^2) per input value, in input units and not clipped to the box.
``at=activations``: y -> y + std * s * n on the output y of the activation calls that ``sites`` names, n ~ N(0, 1), s
the standard deviation of y over the units of that call, of each example by itself.
``at=learned``: the same with std replaced by an alpha of each site, learned with the weights from std on (0.25 in the
paper): Parametric Noise Injection (He, Rakin & Fan 2019, equations 1 to 3; s there is over the batch, here over
the example, so that no answer depends on its company). Its loss is half clean, half adversarial (their equation 7, both
weights 0.5): half of the examples of each epoch, chosen anew, are replaced by what ``inner`` makes of them at eps.
Without the adversarial half alpha would shrink to nothing. weight_decay falls on weights and alphas alike.

The target becomes stochastic: it is attacked with the gradient averaged over many draws (expectation over
transformation, Athalye et al. 2018) and judged by its mean accuracy over fresh draws, never by its worst draw. Not
trained by default, learned noise apart; finetune epochs train the weights under the same noise, without which most
networks lose clean accuracy.

Cost at inference: none beyond the draws. Fine-tuned: one forward and one backward of the training split an epoch, and
for learned noise the inner attack's on half of it.

Known failures: against an attack that asks once the noise looks stronger than it is; the mean over draws is no vote and
no certificate (for that see ``smoothing``); learned noise trains on adversarial examples too, so that what the noise
adds is its gain over ``adversarial_training(mix=0.5)``, not over the untrained model.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from actsec.activations.following import Stands
from actsec.defenses._learning import fine_tuned, learn, partly, recipe_of, require, seed_of, split_of
from actsec.defenses._site_noise import alphas, jittered
from actsec.defenses.swap import example_of
from actsec.draws import Draws
from actsec.errors import BadOption
from actsec.spec import Spec
from actsec.training import Memory
from actsec.types import Fitted, Material, Target, Threat

SHARE = 0.5
"""Of the examples, those that learned noise trains on as the attack left them."""
INNER = Spec("pgd", (("steps", 7),))


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
    """Gaussian noise at inference, on the inputs or on activations."""

    std: Annotated[float, "standard deviation: in input units, or as a share of an activation's own"]
    at: Annotated[Literal["input", "activations", "learned"], "where the noise is added"] = "input"
    sites: Annotated[str | tuple[str, ...], "of activations, names of the calls: a glob, or a list of globs"] = "*"
    finetune: Annotated[int, "epochs of training under the noise; 0 leaves the weights"] = 0
    eps: Annotated[float | None, "L-inf radius of the adversarial half that learned noise trains on"] = None
    inner: Annotated[Spec, "the attack that makes that half"] = INNER
    learning_rate: Annotated[float, "the highest learning rate of fine-tuning"] = 1e-3
    batch_size: Annotated[int, "examples an update of fine-tuning"] = 64
    weight_decay: Annotated[float, "L2 penalty of fine-tuning, on weights and learned scales"] = 0.0

    claims: ClassVar[str] = (
        "Makes every answer random, which can raise mean accuracy under attack; only attacks that average over the "
        "noise say by how much, and nothing is certified."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "robustness"
    randomises: ClassVar[bool] = True
    adaptive: ClassVar[tuple[str, ...]] = ("pgd(loss=margin)",)

    def __post_init__(self) -> None:
        learned = self.at == "learned"
        require(0 < self.std < float("inf"), "noisy_inference(std=...)", self.std, "a positive number such as 0.1")
        if learned:
            require(self.finetune > 0, "noisy_inference(at=learned, finetune=...)", self.finetune, "at least one epoch")
            if self.eps is None:
                raise BadOption("noisy_inference(at=learned) needs 'eps'", "Give the radius trained against.")
            Threat("linf", self.eps)
        for option, default in (("eps", None), ("inner", INNER)):
            if getattr(self, option) != default and not learned:
                said = f"noisy_inference(at={self.at}) trains against no attack, and so takes no {option}"
                raise BadOption(said, f"Give at=learned, or leave {option} out.")
        if self.at == "input" and self.sites != "*":
            raise BadOption("noisy_inference(at=input) has no sites", "Give at=activations, or leave sites out.")
        require(
            bool(self.sites), "noisy_inference(sites=...)", list(self.sites), "at least one name, or a glob such as *"
        )
        fine_tuned(self)

    @property
    def needs(self) -> Literal["nothing", "calibration", "train"]:
        """``train`` when it fine-tunes, otherwise nothing."""
        return "train" if self.finetune else "nothing"

    @staticmethod
    def trains_against(spec: Spec) -> bool:
        """Whether what a spec says learns from attacked examples, and so takes the eps of the audit."""
        return spec.get("at") == "learned"

    def wrap(self, target: Target) -> Target:
        """The target with noise in its model, stochastic from now on. Raises UnknownName for a glob without a site."""
        if self.at != "input":
            learned = self.at == "learned"
            model: Stands = jittered(target.model, example_of(target), self.sites, self.std, learned=learned)
            return target.having(model=model, stochastic=True)
        scale = torch.tensor(self.std)
        if target.normalization is not None:  # the model sees (x - mean) / std, so the noise is divided as well
            scale = scale / torch.tensor(target.normalization.std).view(-1, *(1,) * (len(target.shape) - 1))
        model = Noisy(deepcopy(target.model), scale.to(target.device))
        model.training = model.stands.training = target.model.training
        return target.having(model=model, stochastic=True)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Fine-tune under the noise where asked. Raises DataError without a training split then."""
        numbers: dict[str, Any] = {"at": self.at, "std": self.std}
        if self.finetune:
            numbers |= self._learned(target, material)
        else:
            numbers |= {"epochs": 0, "forwards": 0, "backwards": 0}
        if self.at != "input":
            numbers["alpha"] = alphas(target.model)
        return Fitted(numbers, () if self.finetune else ("No weight was trained under the noise.",))

    def _learned(self, target: Target, material: Material) -> dict[str, Any]:
        """Train in place, on examples of which half are attacked where the noise is learned."""
        split, recipe = split_of(material, "train", "noisy_inference"), recipe_of(self, material.seed)
        if self.at != "learned":
            return learn(target, split, recipe, material, "noisy_inference")
        threat, memory = Threat("linf", self.eps), Memory()

        def perturb(x: Tensor, y: Tensor, ids: Tensor, epoch: int) -> Tensor:
            seed = seed_of(material.seed, "inner", epoch)
            return material.perturb(target, x, y, ids, self.inner, threat, seed)

        half = partly(perturb, SHARE, Draws(material.seed, "noisy_inference"), memory)
        numbers = learn(target, split, recipe, material, "noisy_inference", perturb=half, memory=memory)
        attacked = memory.numbers["attacked"]
        return {**numbers, "threat": str(threat), "inner": str(self.inner), "examples_attacked": attacked}
