"""Beside forcing many units of each image: one delta for all images, one unit at a time, and other models' units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from actsec import registry
from actsec.activations import replace
from actsec.errors import ModelError, ThreatError
from actsec.forcing import brackets, consequences, killing, units
from actsec.forcing.aim import Kill, depth
from actsec.forcing.consequences import Consequence, Passed
from actsec.health import tally
from actsec.search.ledger import FOUND
from actsec.search.oracle import Oracle, filling, frozen
from actsec.search.referee import attack_target, cases_of
from actsec.types import Cases, Region, Target

NOISE = "noise(draws=20, kind=sign)"
SINGLE = "fab(steps=20, targets=1)"
SITES = 3
"""Single units are looked for at the first site, the last and one between them."""
MADE_ON = 128
"""Images that one delta is made on at most."""
GRID = 12
"""Sizes at which intervals say how many units may be reached."""


@dataclass(frozen=True, slots=True)
class Universal:
    """One delta made on the first images, and random signs chosen on them, on these and on the others.

    made and noise_made are on the images that they were made on, other and noise_other on the others.
    """

    made: Consequence
    other: Consequence
    noise_made: Consequence
    noise_other: Consequence
    size: float
    delta: Tensor = field(repr=False, compare=False)


def universal(target: Target, cases: Cases, region: Region, attack: str, seed: int) -> Universal:
    """One delta for the first rows, at most half and MADE_ON, tried on the others. Raises ThreatError below 4 rows.

    A question of it costs a forward of every row it is made on. Raises ThreatError for targets that draw.
    """
    half = filling(min(len(cases) // 2, MADE_ON))
    if half < 2:
        raise ThreatError(f"{len(cases)} images are too few to make a delta on some", "Give 4 or more.")
    x, y, eps = cases.x, cases.y, float(cases.eps[0])
    view = units.universal_target(target, x[:half])
    one = cases_of(view, torch.zeros_like(x[:1]), torch.zeros_like(y[:1]), cases.norm, eps)

    def found(spec: str) -> tuple[Consequence, Consequence, Tensor]:
        delta = attack_target(registry.build("attacks", spec), view, one, Kill(region), seed=seed, name=spec).x
        shown = [units.shifted(target, part, delta)[0] for part in (x[:half], x[half:])]
        sides = zip((x[:half], x[half:]), shown, (y[:half], y[half:]), strict=True)
        here, there = (consequences.compare(target, *side, region) for side in sides)
        return here, there, delta

    made, other, delta = found(attack)
    noise_made, noise_other, _ = found(NOISE)
    size = delta.flatten(1).abs().amax() if cases.norm == "linf" else delta.flatten(1).norm(dim=1).amax()
    return Universal(made, other, noise_made, noise_other, float(size), delta)


@dataclass(frozen=True, slots=True)
class Smallest:
    """The smallest changes that force single units of one site: pairs of an image and a unit that is not there yet.

    found (pairs,): what an attack took, infinite where it failed, never below the truth; exact (pairs,): the truth,
    empty where it is not known; certified: (size, share of the pairs that intervals let through), at least the truth,
    empty where there are no intervals.
    """

    site: str
    kind: str
    units: int
    found: tuple[float, ...]
    exact: tuple[float, ...]
    certified: tuple[tuple[float, float], ...]


def smallest(target: Target, cases: Cases, region: Region, count: int, seed: int) -> tuple[Smallest, ...]:
    """Single units at up to SITES sites, ``count`` of each drawn at random from those that some image leaves alive.

    About 20 forwards and backwards a row for every unit.
    """
    x = cases.x
    with frozen(target.model):
        oracle = Oracle(target)
        seen = [(s, inside) for s in oracle.observe(x, True).sites if (inside := depth(s, region)) is not None]
        moving = tally.moving(oracle, x, region)
    layer = _layer(target, x) if region == "dead" else None
    picked = sorted({0, len(seen) // 2, len(seen) - 1})[:SITES]
    drawn = torch.Generator().manual_seed(seed)
    made = []
    for at in picked:
        site, inside = seen[at]
        there = (inside < 0) & moving[site.name]
        alive = torch.nonzero(there.any(0)).flatten()
        if layer is not None and layer.site == site.name and layer.units is not None:
            alive = alive[torch.isin(alive, layer.units)]
        chosen = alive[torch.randperm(len(alive), generator=drawn)[:count].to(alive.device)].sort().values
        pairs = there[:, chosen]
        if not bool(pairs.any()):
            continue
        sizes = torch.stack([_reached(target, cases, site.name, int(unit), region) for unit in chosen], 1)
        found = sizes[pairs]
        exact = found[:0]
        if layer is not None and layer.site == site.name and layer.units is not None:
            places = torch.searchsorted(layer.units, chosen)
            exact = killing.kill_radius(layer, x, cases.norm, target.bounds)[:, places][pairs]
        certified = _let_through(target, x, site.name, chosen, pairs, region, _reach(found, float(cases.eps[0])))
        made.append(
            Smallest(site.name, site.kind, len(chosen), tuple(found.tolist()), tuple(exact.tolist()), certified)
        )
    return tuple(made)


def _layer(target: Target, x: Tensor) -> killing.Affine | None:
    if x[0].numel() > brackets.FEATURES:
        return None
    try:
        return killing.first_layer(target, x, most=brackets.UNITS)
    except ModelError:  # the bracket says why
        return None


def _reached(target: Target, cases: Cases, site: str, unit: int, region: Region) -> Tensor:
    """The smallest change (n,) found that forces one unit of a site, infinite where none was found."""
    view = units.unit_target(target, cases.x, site, (unit,), region)
    rows = cases_of(view, cases.x, torch.zeros_like(cases.y), cases.norm, None)
    found = attack_target(registry.build("attacks", SINGLE), view, rows)
    return torch.where(found.status == FOUND, found.size.double(), torch.inf)


def _reach(found: Tensor, eps: float) -> float:
    """How far a curve is drawn: to twice eps, or to where nine in ten of what was found lie."""
    kept = found[torch.isfinite(found)]
    return max(2 * eps, float(kept.quantile(0.9)) if len(kept) else 0.0)


def _let_through(
    target: Target, x: Tensor, site: str, chosen: Tensor, pairs: Tensor, region: Region, end: float
) -> tuple[tuple[float, float], ...]:
    """At sizes up to ``end`` the share of the pairs that intervals do not keep out of the region."""
    told = [(0.0, 0.0)]
    for at in range(1, GRID + 1):
        size = end * at / GRID
        reach = brackets.reachable(target, x, size, region)[0].get(site)
        if reach is None:
            return ()
        told.append((size, float(reach[:, chosen][pairs].double().mean())))
    return tuple(told)


@dataclass(frozen=True, slots=True)
class Twin:
    """What each contender's inputs (by name) did on the same weights with another activation."""

    activation: str
    passed: dict[str, Passed]


def twins(
    target: Target, cases: Cases, swaps: Sequence[str], forced: Mapping[str, Tensor], region: Region = "dead"
) -> tuple[Twin, ...]:
    """The forced inputs of a target on its twins, whose activations are swapped and nothing trained.

    4 forwards a row for each. Raises what ``replace`` raises.
    """
    x = cases.x
    example = target.normalization(x[:2]) if target.normalization else x[:2]
    found = []
    for to in swaps:
        twin = target.having(model=replace(target.model, to, example=example))
        told = {
            name: consequences.transferred({to: twin}, x, left, cases.y, region)[0] for name, left in forced.items()
        }
        found.append(Twin(to, told))
    return tuple(found)
