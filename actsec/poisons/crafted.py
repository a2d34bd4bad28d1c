"""Crafted rows: in range, and made so that one gradient step on them silences units on clean data.

White box against a trained network that is to be updated on rows from outside. The batch is searched by signed
gradient steps through one unrolled step of plain gradient descent, theta' = theta - rate * dL(rows; theta)/dtheta
(after Munoz-Gonzalez et al. 2017, who unroll the whole training). What is raised is a smooth count, a mean over
sites: of relu's units and their kin, those that theta' puts past the end of their dead half-line on every clean row
watched, told by the row that keeps each most alive; of sigmoid's and tanh's, the mean share in a saturated tail. The
best batch seen is planted. Labels stay fixed: the rows' own or random ones.

adapted: who knows the mitigation unrolls the step that the victim takes: clipped as a whole, or Adam's first, whose
signs are followed in the backward pass by g / (|g| + mean |g|); and where no unit can be silenced, raises the loss on
the clean rows watched instead.

What it does must exceed that of ``random_rows``, the same count in the same place. Known limits: an update of many
steps or with another optimizer is not what was unrolled; activations whose units neither die nor saturate are
refused unless adapted; clean epochs afterwards revive what is not dead on every row. Cost: ``steps`` forwards and
backwards of the planted and the watched rows, second order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from actsec.activations import find, watch
from actsec.activations.regions import regions
from actsec.draws import Draws
from actsec.errors import BadOption, ThreatError
from actsec.poisons._planting import Labels, chosen, labels, planted
from actsec.types import Ends, Enters, Split, Target, Victim

_FORCED = ("dead", "saturated")


@dataclass(frozen=True, slots=True)
class Crafted:
    """Rows in the box, searched through one unrolled step."""

    rows: Annotated[int, "planted rows"] = 16
    steps: Annotated[int, "steps of the search"] = 60
    step_size: Annotated[float, "of the search, as a share of the box"] = 0.05
    labels: Annotated[Labels, "random, or those of the rows it starts from (consistent)"] = "random"
    softness: Annotated[float, "width of the smooth count, in standard deviations of the site's values"] = 0.25
    watched: Annotated[int, "clean training rows that the count is over"] = 256
    adapted: Annotated[bool, "through the step that the victim's mitigation makes, as one plants who knows it"] = False

    enters: ClassVar[Enters] = "update"

    def __post_init__(self) -> None:
        for option in ("rows", "steps", "step_size", "softness", "watched"):
            if not getattr(self, option) > 0:
                raise BadOption(f"crafted({option}={getattr(self, option)})", f"{option} is above 0.")

    def count(self, train: Split) -> int:
        return self.rows

    def poison(self, train: Split, victim: Victim) -> Split:
        draws, target = Draws(victim.seed, "crafted"), victim.target
        rows = chosen(train, self.rows, draws)
        seen = chosen(train, min(self.watched, len(train.y)), draws.named("watched"))
        y = labels(self.labels, train.y[rows], len(target.classes), draws)
        search = _Search(self, victim, train.x[seen], y, train.y[seen])
        (low, high), x = target.bounds, train.x[rows].clone()
        best, silent = x, -torch.inf
        for _ in range(self.steps):
            leaf = x.detach().requires_grad_(True)
            with torch.enable_grad():
                count = search.silenced(leaf)
                (gradient,) = torch.autograd.grad(count, leaf)
            if float(count.detach()) > silent:
                best, silent = x, float(count.detach())
            x = (x + self.step_size * (high - low) * gradient.nan_to_num(0.0).sign()).clamp(low, high)
        return planted(train, best, y)


class _Logits(nn.Module):
    """A target as a module: its weights can be others for a call, and its inputs are normalised as ever."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.model, self.target = target.model, target

    def forward(self, x: Tensor) -> Tensor:
        return self.target.logits(x)


class _Search:
    """The smooth count of silenced units after one step, as a function of the planted rows."""

    def __init__(self, options: Crafted, victim: Victim, clean: Tensor, y: Tensor, labels: Tensor) -> None:
        self.options, self.victim, self.clean, self.y, self.labels = options, victim, clean, y, labels
        model = victim.target.model
        self.sites: dict[str, Ends] = {}
        self.asked = _Logits(victim.target)
        normalization = victim.target.normalization
        for site in find(model, clean[:2] if normalization is None else normalization(clean[:2])).active:
            ends = [end for end in regions(site.kind, site.options) if end[0] in _FORCED]
            if ends:  # an activation has one region at most
                self.sites[site.name] = ends[0]
        if not self.sites and not options.adapted:
            raise ThreatError("crafted: no unit of this network can die or saturate", "Plant outliers instead.")
        self.start = {name: p.detach().clone().requires_grad_(True) for name, p in self.asked.named_parameters()}
        # the scale of each site's values is that before the step: a smaller one would pay for flatness
        self.scales = {name: float(z.detach().std().clamp_min(1e-6)) for name, z in self.values(self.start).items()}

    def values(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The pre-activations (n, units) of the clean rows, by site."""
        with watch(self.victim.target.model, only=self.sites, post=False) as seen:
            functional_call(self.asked, weights, (self.clean,))
        return {call.name: call.pre.flatten(1) for call in seen.calls}

    def silenced(self, x: Tensor) -> Tensor:
        loss = F.cross_entropy(functional_call(self.asked, self.start, (x,)), self.y)
        slopes = torch.autograd.grad(loss, list(self.start.values()), create_graph=True, allow_unused=True)
        known = {name: slope for name, slope in zip(self.start, slopes, strict=True) if slope is not None}
        moves = self.moved(known) if self.options.adapted else known
        rate = self.victim.learning_rate
        after = {n: weight - rate * moves[n] if n in moves else weight for n, weight in self.start.items()}
        if not self.sites:
            return F.cross_entropy(functional_call(self.asked, after, (self.clean,)), self.labels)
        found = [self.of_site(z, self.sites[name], self.scales[name]) for name, z in self.values(after).items()]
        return torch.stack(found).mean()

    def moved(self, slopes: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the victim's update makes of the gradients: clipped together, then Adam's first step."""
        if (most := self.victim.clip_norm) is not None:
            length = torch.stack([slope.square().sum() for slope in slopes.values()]).sum().sqrt()
            slopes = {name: slope * (most / (length + 1e-6)).clamp(max=1.0) for name, slope in slopes.items()}
        if self.victim.optimizer == "sgd":
            return slopes
        soft = {name: slope / (slope.abs() + slope.detach().abs().mean() + 1e-12) for name, slope in slopes.items()}
        return {name: s + (slopes[name] / (slopes[name].abs() + 1e-8) - s).detach() for name, s in soft.items()}

    def of_site(self, z: Tensor, ends: Ends, scale: float) -> Tensor:
        """The smooth share: of units dead on the row furthest from it, or of units and rows saturated."""
        region, below, above = ends
        width = self.options.softness * scale
        past = [(below - z) / width] if below is not None else []
        past += [(z - above) / width] if above is not None else []
        depth = past[0] if len(past) == 1 else torch.maximum(*past)
        return torch.sigmoid(depth.amin(0) if region == "dead" else depth).mean()
