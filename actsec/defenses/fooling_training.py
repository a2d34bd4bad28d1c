"""Training against fooling images: as many nonsense inputs as real ones, and being sure of any of them costs.

E[ CE(f(x), y) ] + weight * E[ max_k log p_k(f(u)) ] over nonsense u (Hein, Andriushchenko & Bitterwolf 2019, section
4). mode=ceda takes u as drawn; mode=acet takes the surest input within eps of it, found by ``inner`` (they, on MNIST:
40 steps of PGD, eps 0.3 in L-inf). The second term is least, -log(classes), where every class is equally likely. A
third of the draws each: uniform noise, a training row with its values (pixels) permuted, and one flat colour a channel,
which the authors leave out and near-blank images need. Noise and permuted images are smoothed by a Gaussian of 0 to 2.5
pixels, another for each, and stretched back to the box; rows without pixels are not smoothed. Drawn anew every epoch.

It lowers confidence near the nonsense it has seen, and changes labels as any fine-tuning does.

Cost an epoch: 2 forwards and 2 backwards of the training split; in mode acet also what ``inner`` costs on it. One
forward of up to 512 nonsense inputs before the first and one after the last.

Known failures: nonsense of another kind (other data sets, far outside the box) can be as sure as before; mode ceda does
little against images optimised to fool; an eps so wide that nonsense within it looks like the data undoes it,
which the confidence on fresh nonsense, told before and after, shows; a weight too large lowers confidence on real
examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from actsec.defenses._learning import (
    Count,
    copied,
    decisions_of,
    learn,
    recipe_of,
    require,
    restarted,
    seed_of,
    split_of,
)
from actsec.draws import Draws
from actsec.losses import LargestConfidence
from actsec.spec import Spec
from actsec.types import Fitted, Material, Norm, Target, Threat

SMOOTHEST = 2.5
LOOKED_AT = 512
"""Rows of the nonsense whose confidence is told before and after."""


@dataclass(frozen=True, slots=True)
class FoolingTraining:
    """Training to be unsure of nonsense."""

    mode: Annotated[Literal["ceda", "acet"], "nonsense as drawn, or the surest within eps of it"] = "ceda"
    weight: Annotated[float, "of the nonsense beside the real examples"] = 1.0
    eps: Annotated[float, "acet: how far from the draw the surest input is sought, in input units"] = 0.1
    norm: Annotated[Norm, "acet: the norm of eps"] = "linf"
    inner: Annotated[Spec, "acet: the attack that climbs the confidence"] = Spec("pgd", (("steps", 10),))  # noqa: RUF009  # immutable
    epochs: Annotated[int, "passes over the training split"] = 5
    start: Annotated[Literal["given", "scratch"], "the weights to begin with"] = "given"
    optimizer: Annotated[Literal["adam", "sgd"], "the update rule"] = "adam"
    learning_rate: Annotated[float, "the highest learning rate"] = 1e-3
    batch_size: Annotated[int, "real examples an update"] = 64
    weight_decay: Annotated[float, "L2 penalty"] = 0.0

    needs: ClassVar[Literal["nothing", "calibration", "train"]] = "train"
    claims: ClassVar[str] = (
        "Lowers confidence on noise and blanks like those it is trained on; it adds no robustness to changed images, "
        "and other nonsense can still be sure."
    )
    kind: ClassVar[Literal["robustness", "calibration", "stability"]] = "calibration"
    adaptive: ClassVar[tuple[str, ...]] = ("pgd(steps=50, restarts=2, loss=margin)",)

    def __post_init__(self) -> None:
        Threat(self.norm, self.eps)
        require(0 < self.weight < float("inf"), "fooling_training(weight=...)", self.weight, "above 0, such as 1")
        recipe_of(self, 0)

    def wrap(self, target: Target) -> Target:
        """A copy: the structure does not change."""
        return copied(target)

    def fit(self, target: Target, material: Material) -> Fitted:
        """Train in place. Raises DataError without a training split, ModelError where start=scratch is impossible."""
        split = split_of(material, "train", "fooling_training")
        if self.start == "scratch":
            restarted(target.model, seed_of(material.seed, "scratch"))
        threat, draws = Threat(self.norm, self.eps), Draws(material.seed, "fooling_training")
        fresh = nonsense(split.x[:LOOKED_AT], split.id[:LOOKED_AT], draws.named("looked at"), 0, target.bounds)
        count = Count()
        with count.of(target):
            before = _sureness(target, fresh, material.seed)

        def perturb(x: Tensor, y: Tensor, ids: Tensor, epoch: int) -> Tensor:
            drawn = nonsense(x, ids, draws, epoch, target.bounds)
            if self.mode == "ceda":
                return drawn
            seed, loss = seed_of(material.seed, "inner", epoch), LargestConfidence()
            found: Tensor = material.perturb(target, drawn, y, ids, self.inner, threat, seed, loss)
            return found.to(x.dtype)

        recipe = recipe_of(self, material.seed)
        numbers = learn(
            target,
            split,
            recipe,
            material,
            "fooling_training",
            perturb=perturb,
            objective=self._objective,
            memory=count.memory,
        )
        with count.of(target):
            after = _sureness(target, fresh, material.seed)
        sure = {"nonsense_confidence_before": before, "nonsense_confidence_after": after, "forwards": count.forwards}
        told = {"mode": self.mode, "weight": self.weight, "start": self.start}
        attack = {"threat": str(threat), "inner": str(self.inner)} if self.mode == "acet" else {}
        return Fitted(numbers | told | attack | sure)

    def _objective(self, ask: Callable[[Tensor], Tensor], x: Tensor, found: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the real examples, and the weighted mean log confidence on nonsense."""
        return ask(x), self.weight * ask(found).log_softmax(1).amax(1).mean()


def nonsense(x: Tensor, ids: Tensor, draws: Draws, epoch: int, bounds: tuple[float, float]) -> Tensor:
    """Inputs (n, *shape) in the box that mean nothing, one for each row of x (n, *shape), keyed by row and epoch."""
    low, high = bounds
    shape = tuple(x.shape[1:])
    spread = (-1, *(1,) * len(shape))
    drawn = draws.uniform(ids, epoch, shape)
    # Pixels are permuted whole, with their channels.
    flat = x.flatten(2) if len(shape) == 3 else x.flatten(1)[:, None]
    order = draws.uniform(ids, epoch, (flat.shape[-1],), 1).argsort(dim=1, stable=True)[:, None].expand_as(flat)
    permuted = flat.gather(2, order).reshape(x.shape)
    flat_colour = draws.uniform(ids, epoch, (shape[0], *(1,) * (len(shape) - 1)), 2).expand_as(x)
    kind = draws.integers(ids, epoch, (1,), 3, 3).view(spread)
    made = torch.where(kind == 0, low + (high - low) * drawn, permuted)
    if len(shape) == 3:
        made = _smoothed(made, SMOOTHEST * draws.uniform(ids, epoch, (1,), 4), bounds)
    return torch.where(kind == 2, low + (high - low) * flat_colour, made).to(x.dtype)


def _smoothed(x: Tensor, sigma: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Images (n, c, h, w), each blurred by its own sigma (n, 1) in pixels and stretched to the whole box."""
    low, high = bounds
    rows, columns = (blur(side, sigma).to(x.dtype) for side in x.shape[2:])
    blurred = rows[:, None] @ x @ columns[:, None].transpose(2, 3)
    least, most = (end.view(-1, 1, 1, 1) for end in blurred.flatten(1).aminmax(dim=1))
    return low + (high - low) * (blurred - least) / (most - least).clamp_min(1e-12)


def blur(side: int, sigma: Tensor) -> Tensor:
    """Matrices (n, side, side) that average neighbours by a Gaussian; weights outside the image go to those inside."""
    apart = torch.arange(side, device=sigma.device, dtype=torch.float32)
    weights = (-0.5 * ((apart[:, None] - apart)[None] / sigma.clamp_min(1e-3)[..., None]).square()).exp()
    return weights / weights.sum(2, keepdim=True)


def _sureness(target: Target, x: Tensor, seed: int) -> float:
    """Mean confidence on inputs (n, *shape)."""
    return float(decisions_of(target, x, seed).softmax(-1).mean(0).amax(-1).double().mean())
