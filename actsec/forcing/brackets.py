"""Attack and certificate side by side: what was forced <= what can be <= what is certified, on the same units.

At the first site the certificate is exact for each unit alone (killing.kill_radius), behind it intervals
(killing.bounds). What an architecture does not allow is left out with its reason, never as 0 or 1.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from actsec.activations.regions import regions
from actsec.errors import ModelError
from actsec.forcing import killing, units
from actsec.forcing.aim import depth
from actsec.forcing.bracket_words import EXACT, INTERVALS
from actsec.health import tally
from actsec.result import Bracket, SiteBracket
from actsec.search.oracle import Oracle, frozen
from actsec.types import SLACK, Cases, Norm, Region, Target

UNITS = 256
"""Units of the first site that are read, drawn at random where it has more."""
FEATURES = 1 << 15
"""More inputs than these, and reading a first layer costs too much: 3 x 224 x 224 is."""
PROGRAM = 1 << 16
"""Entries of a first layer's matrix up to which its blackout is solved as a linear program."""


def bracket(target: Target, cases: Cases, after: Tensor, region: Region = "dead", dark: int = 3) -> Bracket:
    """What ``after`` (n, *shape), an attack inside the balls of cases, forced, beside what nothing in them can.

    Certificates hold for the whole box of the target, so that masked cases are covered; eps is that of the first row.
    2 forwards a row, 2 more and UNITS + 5 in float64 with as many backwards; ``dark`` images by linear programs.
    """
    x, eps = cases.x, float(cases.eps[0])
    within = eps * (1 + SLACK)
    with frozen(target.model):
        oracle = Oracle(target)
        moving = tally.moving(oracle, x, region)
        pairs = [
            (one, first >= 0, second >= 0)
            for one, two in zip(oracle.observe(x, True).sites, oracle.observe(after, True).sites, strict=True)
            if (first := depth(one, region)) is not None and (second := depth(two, region)) is not None
        ]
    reach, reason_intervals = reachable(target, x, within, region)
    layer, radius, reason_exact = _exact(target, x, cases.norm, region)
    found = []
    for one, was, now in pairs:
        kept, may, how = moving[one.name], reach.get(one.name), INTERVALS
        if layer is not None and radius is not None and layer.site == one.name and layer.units is not None:
            may = torch.zeros_like(was)
            may[:, layer.units] = radius <= within
            looked = torch.zeros_like(kept)
            looked[layer.units] = True
            kept, how = kept & looked, EXACT
        alive = (~was & kept).sum()
        attacked = float((now & ~was & kept).sum() / alive.clamp_min(1))
        certified = None if may is None else float((may & ~was & kept).sum() / alive.clamp_min(1))
        told = (attacked, certified, "" if may is None else how)
        found.append(SiteBracket(one.name, one.kind, int(kept.sum()), int(was.shape[1]), *told))
    made = Bracket(len(x), cases.norm, eps, region, tuple(found), reason_exact, reason_intervals)
    return made if layer is None or radius is None else _darkened(made, target, x[:dark], layer, radius[:dark])


def reachable(target: Target, x: Tensor, eps: float, region: Region) -> tuple[dict[str, Tensor], str]:
    """By site, which units (n, units) intervals do not keep out of a region; or none, and why."""
    try:
        found = killing.bounds(target, x, eps)
    except (ModelError, RuntimeError, TypeError) as problem:  # a model that does not run in float64
        return {}, problem.problem if isinstance(problem, ModelError) else str(problem).splitlines()[0]
    ends = {
        site.name: (below, above)
        for site in units.sites(target, x, region)
        for name, below, above in regions(site.kind, site.options)
        if name == region
    }
    reach = {}
    for each in (each for each in found if each.name in ends):
        below, above = ends[each.name]
        at = torch.zeros_like(each.low, dtype=torch.bool)
        at = at if below is None else at | (each.low <= below)
        reach[each.name] = at if above is None else at | (each.high >= above)
    return reach, ""


def _exact(target: Target, x: Tensor, norm: Norm, region: Region) -> tuple[killing.Affine | None, Tensor | None, str]:
    """The first layer and the radius (n, units) of its units, or why there is none."""
    if region != "dead":
        return None, None, "exact radii are of units that die"
    if x[0].numel() > FEATURES:
        return None, None, f"inputs of {x[0].numel()} numbers are too many to read the first layer"
    try:
        layer = killing.first_layer(target, x, max(target.batch // 2, 1), UNITS)  # float64 takes twice the memory
        return layer, killing.kill_radius(layer, x, norm, target.bounds), ""
    except ModelError as problem:
        return None, None, problem.problem


def _darkened(made: Bracket, target: Target, x: Tensor, layer: killing.Affine, radius: Tensor) -> Bracket:
    """With the smallest blackouts of the first site: exact where the program is small, else of the hardest unit."""
    if layer.whole and layer.weight.numel() <= PROGRAM:
        try:
            inside, anywhere = (killing.blackout_radius(layer, x, box) for box in (target.bounds, None))
            exact = made.norm == "linf"  # a ball of L2 lies inside that of L-inf: at least as much
            return replace(
                made, blackouts=_told(inside), blackout_exact=exact, blackouts_anywhere=_told(anywhere) if exact else ()
            )
        except ModelError:  # the solver gave up: what the hardest unit takes stays true
            pass
    return replace(made, blackouts=_told(radius.amax(1)))


def _told(radii: Tensor) -> tuple[float | None, ...]:
    return tuple(value if value < float("inf") else None for value in radii.tolist())
