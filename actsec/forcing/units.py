"""Single units of a model: which are critical, and targets in which a unit, or one delta for many images, is attacked.

``unit_target`` turns "kill these units" into two classes, so that every attack that looks for the smallest change
(fab, minimal_l2) finds the smallest kill. ``universal_target`` takes one delta and runs it on k images, so that a
universal perturbation is one row: its units are those of all images, and every attack that forces units works on it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from actsec.activations import Site, find, watch
from actsec.activations.calls import Activating
from actsec.activations.following import Follower, Stands, following
from actsec.activations.regions import regions
from actsec.errors import BadOption, ThreatError, unknown
from actsec.forcing.aim import Chosen, DeadCount, Kill, Ranked, depth, groups
from actsec.search.oracle import by_row, frozen
from actsec.types import Ask, Attack, Cases, Region, SiteValues, Target

CLASSES = ("there", "gone")


def sites(target: Target, x: Tensor, region: Region = "dead") -> tuple[Site, ...]:
    """The activation calls whose units can be forced into the region: hidden, and seeing the input. One forward."""
    example = x[:2]
    found = find(target.model, target.normalization(example) if target.normalization else example).active
    return tuple(s for s in found if any(name == region for name, _, _ in regions(s.kind, s.options)))


def critical(target: Target, cases: Cases, ranked: Ranked, batch: int = 128) -> Chosen:
    """The critical units of each untouched row: at every site the ``share`` with the largest positive effect.

    By gradient: activation x derivative of the label's logit by it (1 forward, 1 backward a row); by ablation: the
    label's logit less the same with the unit at 0 (1 forward a unit). At an image-like site (c, h, w) whole channels
    are ranked and chosen. Raises ThreatError where no site has the region.
    """
    with frozen(target.model):
        names = [site.name for site in sites(target, cases.x, ranked.region)]
        if not names:
            raise ThreatError(f"no unit of {target.name} can be forced: {ranked.region}", "Attack another model.")
        effect = _by_gradient if ranked.by == "gradient" else _by_ablation
        pieces = torch.split(torch.arange(len(cases), device=cases.x.device), min(batch, target.batch))
        parts = [effect(target, cases.x[piece], cases.y[piece], names) for piece in pieces]
    order = cases.id.argsort()
    masks = []
    for name in names:
        scores = torch.cat([part[name] for part in parts])[order]
        rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        count = max(1, round(ranked.share * scores.shape[1]))
        masks.append((name, (rank < count) & (scores > 0)))
    return Chosen(cases.id[order], tuple(masks))


def _label(target: Target, x: Tensor, y: Tensor) -> Tensor:
    return target.logits(x).gather(1, y[:, None]).squeeze(1)


def _by_gradient(target: Target, x: Tensor, y: Tensor, names: list[str]) -> dict[str, Tensor]:
    with watch(target.model, only=names) as seen, torch.enable_grad():
        logit = _label(target, x.clone().requires_grad_(True), y)
        posts = {call.name: call.post for call in seen.calls if call.post is not None}
        slopes = torch.autograd.grad(logit.sum(), list(posts.values()), allow_unused=True)
    found = {}
    for (name, post), slope in zip(posts.items(), slopes, strict=True):
        effect = torch.zeros_like(post) if slope is None else post.detach() * slope
        found[name] = _grouped(by_row(effect, target.draws))
    return found


def _grouped(effect: Tensor) -> Tensor:
    count, each = groups(effect)
    return effect.reshape(len(effect), count, each).sum(2)


class _Silencer(Follower):
    """Sets one group of one site's output to 0; none while ``group`` is -1. ``count`` is how many there are."""

    def __init__(self, root: nn.Module, site: str, draws: int) -> None:
        super().__init__(root)
        self.site, self.draws, self.group, self.count = site, draws, -1, 0

    def on_site(self, name: str, call: Activating) -> Tensor:
        if name != self.site:
            return call.as_asked()
        post = call.compute(call.source())
        rows = by_row(post, self.draws)
        self.count, each = groups(rows)
        keep = torch.ones(self.count, 1, dtype=post.dtype, device=post.device)
        if self.group >= 0:
            keep[self.group] = 0
        return call.give((rows.reshape(len(rows), self.count, each) * keep).reshape(post.shape))


def _by_ablation(target: Target, x: Tensor, y: Tensor, names: list[str]) -> dict[str, Tensor]:
    found = {}
    with torch.no_grad():
        for name in names:
            silencer, columns = _Silencer(target.model, name, target.draws), []
            with following(silencer):
                whole = _label(target, x, y)
                for group in range(silencer.count):
                    silencer.group = group
                    columns.append(whole - _label(target, x, y))
            found[name] = torch.stack(columns, 1)
    return found


@dataclass(frozen=True, slots=True)
class _Choosing:
    """An attack whose questions are about the chosen units."""

    attack: Attack[Any]
    chosen: Chosen

    @property
    def roles(self) -> tuple[str, ...]:
        return self.attack.roles

    def start(self, cases: Cases, draws: Any) -> Any:
        return self.attack.start(cases, draws)

    def ask(self, state: Any, cases: Cases) -> Ask:
        asked = self.attack.ask(state, cases)
        if isinstance(asked.loss, DeadCount):
            return replace(asked, loss=replace(asked.loss, chosen=self.chosen))
        return asked

    def tell(self, state: Any, reply: Any, cases: Cases, draws: Any) -> Any:
        return self.attack.tell(state, reply, cases, draws)


def choosing(attack: Any, goal: Any, target: Target, cases: Cases) -> tuple[Any, Any]:
    """The attack and its goal with the units that the attack wants ranked on untouched inputs; else as they are."""
    ranked: Ranked | None = getattr(attack, "ranked", None)
    if ranked is None or not len(cases):
        return attack, goal
    chosen = critical(target, cases, ranked)
    return _Choosing(attack, chosen), replace(goal, chosen=chosen) if isinstance(goal, Kill) else goal


class _Units(Stands):
    """One logit: above 0 exactly when every chosen unit of a site is inside the region."""

    def __init__(self, model: nn.Module, site: str, units: tuple[int, ...] | None, region: Region, draws: int) -> None:
        super().__init__()
        self.model, self.stands = model, nn.ModuleDict()
        self.site, self.units, self.region, self.draws = site, units, region, draws

    def forward(self, x: Tensor) -> Tensor:
        with watch(self.model, only=(self.site,), post=False) as seen:
            self.model(x)
        call = seen.calls[0]
        site = SiteValues(call.name, call.kind, by_row(call.pre, self.draws), regions(call.kind, call.options))
        inside = depth(site, self.region)
        assert inside is not None  # noqa: S101  # unit_target looked
        chosen = inside if self.units is None else inside[:, list(self.units)]
        return chosen.amin(1, keepdim=True)


def unit_target(
    target: Target, example: Tensor, site: str, units: tuple[int, ...] | None = None, region: Region = "dead"
) -> Target:
    """A target of two classes, "there" and "gone": gone when all of ``units`` of a site are inside the region.

    units are places in the flattened pre-activation of one input, None for the whole site (a blackout). Every attack
    runs on it with labels 0; a minimal-norm attack finds the smallest kill. Raises UnknownName, BadOption.
    """
    known = {found.name: found for found in sites(target, example, region)}
    if site not in known:
        raise unknown("activation site", site, list(known))
    size = int(torch.tensor(known[site].shape).prod())
    if units is not None and (not units or min(units) < 0 or max(units) >= size):
        raise BadOption(f"units {units} of {site}", f"Units of it are counted from 0 to {size - 1}.")
    model = _Units(target.model, site, units, region, target.draws).eval()
    return target.having(model=model, classes=CLASSES, threshold=None, rejects=None, output=None, draws=1)


class _Shifted(Stands):
    """One delta (m, *shape) on k images each: the mean of their logits (m, classes); k rows at each activation call."""

    def __init__(self, target: Target, images: Tensor) -> None:
        super().__init__()
        self.model, self.stands, self.target = target.model, nn.ModuleDict(), target
        self.register_buffer("images", images, persistent=False)

    def forward(self, delta: Tensor) -> Tensor:
        x = shifted(self.target, self.images, delta).flatten(0, 1)  # type: ignore[arg-type]  # a buffer is a tensor
        return self.target.logits(x).reshape(len(delta), -1, len(self.target.classes)).mean(1)


def shifted(target: Target, images: Tensor, delta: Tensor) -> Tensor:
    """Images (k, *shape) under each delta (m, *shape), clipped to the box: (m, k, *shape)."""
    return (images[None] + delta[:, None]).clamp(*target.bounds)


def universal_target(target: Target, images: Tensor) -> Target:
    """A target whose input is one delta for all of ``images`` (k, *shape): a universal adversary is one row of Cases.

    Its row starts at a delta of 0 and its box is as wide as the inputs' range; each image is clipped to the box after
    the delta is added (Moosavi-Dezfooli et al. 2017). Only goals about units mean anything: the logits are a mean. One
    question costs k forwards; k a multiple of 32 wastes none on padding.
    """
    if target.stochastic:
        raise ThreatError(f"{target.name} draws at inference", "Attack it row by row.")
    width = target.bounds[1] - target.bounds[0]
    return target.having(
        model=_Shifted(target, images).eval(), bounds=(-width, width), normalization=None, threshold=None,
        rejects=None, output=None, draws=len(images) * target.draws, name=f"{target.name}, one delta for {len(images)}",
    )  # fmt: skip
