"""Forcing units: the smoothed count an attack climbs, and what success is.

A region is where a unit gives nothing (actsec.activations.regions): dead, saturated, numerically zero. Its depth is how
far inside a pre-activation lies; a unit is gone at a depth of at least 0. A NaN is neither gone nor there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from actsec.errors import ActsecError, ModelError, ThreatError, unknown
from actsec.types import Cases, Observed, Region, SiteValues

Aim = Literal["count", "critical", "blackout"]
Rank = Literal["gradient", "ablation"]
VERBS: dict[Region, str] = {"dead": "killed", "saturated": "saturated", "zero_tail": "forced into a zero tail"}


@dataclass(frozen=True, slots=True)
class Chosen:
    """Units of each row, by site: ids (n,) int64 ascending; masks: site name to bool (n, groups).

    A group is a channel of an image-like site and a single unit of any other.
    """

    ids: Tensor
    masks: tuple[tuple[str, Tensor], ...]

    def at(self, site: SiteValues, cases: Cases) -> Tensor:
        """Which units of a site are chosen: bool (m, units)."""
        mask = dict(self.masks)[site.name][torch.searchsorted(self.ids, cases.id)]
        return mask.repeat_interleave(math.prod(site.pre.shape[1:]) // mask.shape[1], 1)


@dataclass(frozen=True, slots=True)
class Ranked:
    """Which units an attack wants chosen before it begins: see actsec.forcing.units.critical."""

    by: Rank
    share: float
    region: Region


def groups(pre: Tensor) -> tuple[int, int]:
    """Groups of a site's pre-activation (m, *units), and the units in each: channels of (m, c, h, w), else units."""
    shape = pre.shape[1:]
    return (shape[0], math.prod(shape[1:])) if len(shape) == 3 else (math.prod(shape), 1)


def depth(site: SiteValues, region: Region) -> Tensor | None:
    """How far inside the region each unit is (m, units): gone from 0 on. None where the site has no such region."""
    z = site.pre.flatten(1)
    for name, below, above in site.ends:
        if name == region:
            low = None if below is None else below - z
            high = None if above is None else z - above
            return low if high is None else high if low is None else torch.maximum(low, high)
    return None


def sites_of(observed: Observed, region: Region, only: str | None) -> Iterator[tuple[SiteValues, Tensor]]:
    """The sites that count, each with its depth (m, units). Raises UnknownName for a site that is not there."""
    found = [(site, inside) for site in observed.sites if (inside := depth(site, region)) is not None]
    if only is not None and found and only not in {site.name for site, _ in found}:
        raise unknown("activation site", only, [site.name for site, _ in found])
    return ((site, inside) for site, inside in found if only in (None, site.name))


@dataclass(frozen=True, slots=True)
class DeadCount:
    """The smoothed share of gone units: the mean of sigmoid(depth / tau), tau = width * std(z) per row and site.

    A hinge or softplus spends the budget on strongly active units and does no better than noise; the sigmoid moves the
    units that can be moved. For a blackout, which needs every unit of one site, the hinge is the right loss (of a first
    layer it is convex): minus the least, over sites, of the mean of max(-depth, 0) in units of std(z).
    """

    width: float = 0.3
    region: Region = "dead"
    site: str | None = None
    aim: Aim = "count"
    chosen: Chosen | None = None
    watches: ClassVar[bool] = True

    def __call__(self, observed: Observed, cases: Cases) -> Tensor:
        total, units = observed.logits.new_zeros(len(cases)), observed.logits.new_zeros(len(cases))
        if self.aim == "critical" and self.chosen is None:
            raise ActsecError("critical units are ranked before the attack begins", "Run it by attack_target.")
        blackouts = []
        for site, inside in sites_of(observed, self.region, self.site):
            scale = site.pre.detach().flatten(1).std(dim=1, unbiased=False).clamp_min(1e-12)[:, None]
            if self.aim == "blackout":
                blackouts.append(-(torch.relu(-inside) / scale).mean(1))
                continue
            soft = torch.sigmoid(inside / (self.width * scale).clamp_min(1e-12))
            if self.chosen is not None:
                mask = self.chosen.at(site, cases)
                soft, units = soft * mask, units + mask.sum(1)
            else:
                units = units + soft.shape[1]
            total = total + soft.sum(1)
        if self.aim == "blackout":
            return torch.stack(blackouts).amax(0) if blackouts else total
        return total / units.clamp_min(1)


@dataclass(frozen=True, slots=True)
class Kill:
    """Success: more units are gone than were, net of those that came back, over the sites that have the region.

    With chosen units, those alone count. A blackout scores the largest share gone at any site that was not wholly gone
    before, less all but half a unit: above 0 only when a whole site is gone.
    """

    region: Region = "dead"
    site: str | None = None
    aim: Aim = "count"
    chosen: Chosen | None = None
    name: ClassVar[str] = "kill"
    watches: ClassVar[bool] = True
    settles: ClassVar[bool] = False

    def baseline(self, observed: Observed) -> tuple[Tensor, ...]:
        """One bool tensor (n, units) a site of the region: gone on the clean input.

        Raises ThreatError without one, ModelError where a value is not finite.
        """
        depths = list(sites_of(observed, self.region, self.site))
        for site, inside in depths:
            if not bool(torch.isfinite(inside).all()):
                raise ModelError(
                    f"{site.name} has values that are not finite: a NaN is neither dead nor alive",
                    "Look for NaN in the weights and inputs; a site without them can be named: site=NAME.",
                )
        gone = tuple(inside >= 0 for _, inside in depths)
        if not gone:
            found = ", ".join(dict.fromkeys(s.kind for s in observed.sites)) or "no activation"
            verb = VERBS[self.region]
            raise ThreatError(
                f"{'kill' if self.region == 'dead' else self.region} is not applicable: {found} cannot be {verb}",
                "Dead: relu, relu6, hardswish. Saturated: tanh, sigmoid, hardtanh. Zero tails: gelu, silu, mish.",
            )
        return gone

    def score(self, observed: Observed, baseline: tuple[Tensor, ...], cases: Cases) -> Tensor:
        rise, units = observed.logits.new_zeros(len(cases)), observed.logits.new_zeros(len(cases))
        if self.aim == "blackout":
            return self._blackout(observed, baseline)
        pairs = zip(baseline, sites_of(observed, self.region, self.site), strict=True)
        broken = torch.zeros_like(rise, dtype=torch.bool)
        for before, (site, inside) in pairs:
            after = inside >= 0
            broken |= ~torch.isfinite(inside).all(1)
            mask = torch.ones_like(after) if self.chosen is None else self.chosen.at(site, cases)
            rise = rise + ((after & mask).sum(1) - (before & mask).sum(1)).to(rise.dtype)
            units = units + mask.sum(1)
        # a candidate with a NaN is worse than any other: nothing is known to have died
        return torch.where(broken, -torch.ones_like(rise), rise / units.clamp_min(1))

    def _blackout(self, observed: Observed, baseline: tuple[Tensor, ...]) -> Tensor:
        best = observed.logits.new_full((len(observed.logits),), -1.0)
        sites = sites_of(observed, self.region, self.site)
        for before, after in zip(baseline, (inside >= 0 for _, inside in sites), strict=True):
            share = after.to(best.dtype).mean(1) - 1 + 0.5 / after.shape[1]
            best = torch.where(before.all(1), best, torch.maximum(best, share))
        return best
