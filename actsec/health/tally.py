"""The health of activation calls: dead, saturated, and what an attack killed.

Numbers are JSON: finite floats, ints, bools, strings, None where a number does not exist. The model is left as it was.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from actsec.activations import Site, Sites, Unresolved, activation, find, watch
from actsec.activations.regions import regions, tails
from actsec.draws import Draws
from actsec.forcing.aim import VERBS, depth
from actsec.result import SiteHealth, SiteKill
from actsec.search.oracle import Oracle, by_row, frozen
from actsec.spec import Spec
from actsec.types import Region, Target


@dataclass(slots=True)
class _Tally:
    """Running sums of one site over chunks of inputs."""

    site: Site
    units: int = 0
    rows: int = 0
    dead: float = 0.0
    saturated: float = 0.0
    slope: float = 0.0
    sloped: bool = True
    finite: bool = True
    ever_alive: Tensor | None = None

    def add(self, z: Tensor, gradient: Tensor | None) -> None:
        """Count z (m, units) and the loss's gradient by it."""
        self.units, self.rows = z.shape[1], self.rows + len(z)
        self.finite = self.finite and bool(torch.isfinite(z).all())
        alike = _properties(self.site)
        if alike.dead_below is not None:
            dead = z <= alike.dead_below
            self.dead += float((dead.sum(1).double() / self.units).sum())
            alive = (~dead).any(0)
            self.ever_alive = alive if self.ever_alive is None else self.ever_alive | alive
        if tails(self.site.kind, self.site.options) != (None, None):
            self.saturated += float((_saturated(self.site, z).sum(1).double() / self.units).sum())
        self.sloped = self.sloped and gradient is not None
        if gradient is not None:
            self.slope += float(torch.linalg.vector_norm(gradient.flatten(1), dim=1, dtype=torch.float64).sum())

    def health(self) -> SiteHealth:
        """The means. A site with a value that is not finite has no fractions: NaN is neither dead nor alive."""
        known, alike = self.finite and self.rows > 0, _properties(self.site)
        gone = ~self.ever_alive if known and self.ever_alive is not None else None
        slope = self.slope / max(self.rows, 1)
        can_saturate = tails(self.site.kind, self.site.options) != (None, None)
        return SiteHealth(
            name=self.site.name,
            kind=self.site.kind,
            units=self.units,
            dead=self.dead / self.rows if known and alike.can_die else None,
            permanently_dead=None if gone is None else float(gone.double().mean()),
            saturated=self.saturated / self.rows if known and can_saturate else None,
            gradient_norm=slope if known and self.sloped and np.isfinite(slope) else None,
            finite=self.finite,
        )


def site_health(target: Target, x: Tensor, y: Tensor, batch: int = 128) -> list[dict[str, Any]]:
    """The health of every activation call on clean inputs, as dicts of result.SiteHealth in call order.

    x (n, *shape), y (n,). dead: mean share of units at or below the end of the activation's dead half-line (z <= 0 for
    relu); permanently_dead: share of units dead on all n inputs; saturated: mean share of units in a tail where
    |f'(z)| < 0.05 max |f'|, the dead half-line apart (about 0.5 is usual for leaky_relu);
    gradient_norm: mean L2 norm of the cross-entropy's gradient by z.
    A unit is one number of the pre-activation: a channel at a position. Gates and calls that do not depend on the input
    are left out. Costs 1 forward and 1 backward a row, and memory for the sites of one batch.
    """
    return observed(target, x, y, batch).sites


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen: ``sites``, dicts of result.SiteHealth, and what is not watched, or not on every input."""

    sites: list[dict[str, Any]]
    unresolved: tuple[Unresolved, ...]


def observed(target: Target, x: Tensor, y: Tensor, batch: int = 128) -> Observed:
    """``site_health``, with what it could not watch.

    A model may make other calls on other inputs: calls that come up later are looked for then, and what was not called
    on every input says so. Raises ModelError for compiled and scripted models.
    """
    batch = min(batch, target.batch)
    with frozen(target.model):
        found = _find(target, x[:2])
        met, unresolved = set(found.seen), list(found.unresolved)
        tallies = {site.name: _Tally(site) for site in found.active}
        for piece, labels in zip(torch.split(x, batch), torch.split(y, batch), strict=True):
            leaf = piece.detach().clone().requires_grad_(True)
            # everything, for which calls come is not known before
            with watch(target.model, post=False) as seen:
                logits = target.decision_logits(target.logits(leaf))
            if not seen.met <= met:
                more = _find(target, piece)
                met |= seen.met | more.seen
                unresolved += [item for item in more.unresolved if item not in unresolved]
                tallies |= {site.name: _Tally(site) for site in more.active if site.name not in tallies}
            rows = len(piece) * target.draws
            calls = [call for call in seen.calls if call.name in tallies and call.pre.shape[0] == rows]
            loss = F.cross_entropy(logits, labels, reduction="sum")
            gradients = _by_site(loss, [call.pre for call in calls])
            for call, gradient in zip(calls, gradients, strict=True):
                by_site = None if gradient is None else by_row(gradient, target.draws)
                tallies[call.name].add(by_row(call.pre.detach(), target.draws).flatten(1), by_site)
        for name, tally in tallies.items():
            if tally.rows < len(x):
                part = f"called on {tally.rows} of {len(x)} inputs: what is said of it is of those alone"
                none = f"a {tally.site.kind} not called on these inputs, or not with one row for each: not watched"
                unresolved.append(Unresolved(name, part if tally.rows else none))
        return Observed([asdict(t.health()) for t in tallies.values() if t.rows], tuple(unresolved))


def dead_share(target: Target, x: Tensor, batch: int = 128) -> NDArray[np.float64] | None:
    """The share of all units that are dead on each of x (n, *shape): (n,). Units that cannot die are never dead.

    None for a model without activation calls, with a value at one that is not finite, or that makes other calls on
    other inputs. One forward a row.
    """
    batch, shares = min(batch, target.batch), []
    with frozen(target.model), torch.no_grad():
        torch.manual_seed(0)  # for a model that draws
        known = {site.name: _properties(site) for site in _sites(target, x)}
        for piece in torch.split(x, batch):
            with watch(target.model, only=frozenset(known), post=False) as seen:
                target.logits(piece)
            if not known.keys() <= seen.met:
                return None
            counts = torch.zeros(2, len(piece), dtype=torch.float64)  # dead, all
            for call in (call for call in seen.calls if call.pre.shape[0] == len(piece) * target.draws):
                z, alike = by_row(call.pre, target.draws).flatten(1), known[call.name]
                if not bool(torch.isfinite(z).all()):
                    return None
                if alike.can_die and alike.dead_below is not None:
                    counts[0] += (z <= alike.dead_below).sum(1).cpu()
                counts[1] += z.shape[1]
            shares.append((counts[0] / counts[1]).numpy())
    return np.concatenate(shares) if known and np.isfinite(shares[0]).all() else None


@dataclass(frozen=True, slots=True)
class KillProfile:
    """What an attack did to the units that can die. sites: dicts of result.SiteKill.

    net (n,) is the rise of the dead fraction (killed minus revived, of all units); killed_of_active (n,) the share of
    units alive before that died. Both are None, with the reason, where no site can die or a value is not finite.
    """

    sites: list[dict[str, Any]]
    net: NDArray[np.float64] | None
    killed_of_active: NDArray[np.float64] | None
    reason: str


def kill_profile(
    target: Target,
    before: Tensor,
    after: Tensor,
    batch: int = 128,
    region: Region = "dead",
    among: Tensor | None = None,
) -> KillProfile:
    """Compare the units gone on clean inputs and on attacked ones, both (n, *shape), row by row. Two forwards a row.

    Counts the sites that have the region (see forcing.Kill); gates and constant calls are left out, and so are constant
    units, which stay the same on all of the clean inputs, or on all of ``among`` (m, *shape) where it is given, and on
    16 random ones: nothing forces them. That takes one forward more for each of these. What is compared piece by piece
    gives the same ``among`` every time, so that the shares are of the same units.
    """
    with frozen(target.model):
        found = _sites(target, before)
        sites = {site.name: site for site in found if _ends_of(site, region)}
        if not sites:
            named = ", ".join(sorted({site.kind for site in found})) or "a model without activations"
            return KillProfile([], None, None, f"not applicable: {named} cannot be {VERBS[region]}")
        sums = {name: np.zeros(5) for name in sites}
        net, of_active = [], []
        batch = min(batch, target.batch)
        oracle = Oracle(target, batch)
        kept_units = moving(oracle, before if among is None else among, region)
        for clean, attacked in zip(torch.split(before, batch), torch.split(after, batch), strict=True):
            pairs = list(zip(oracle.observe(clean, True).sites, oracle.observe(attacked, True).sites, strict=True))
            counts = np.zeros((len(clean), 4))  # killed, revived, active before, units
            for one, two in pairs:
                first, second = depth(one, region), depth(two, region)
                if first is None or second is None:
                    continue
                if not (bool(torch.isfinite(one.pre).all()) and bool(torch.isfinite(two.pre).all())):
                    return KillProfile([], None, None, f"no verdict: {one.name} has values that are not finite")
                kept = kept_units[one.name]
                row = _killed((first >= 0)[:, kept], (second >= 0)[:, kept])
                counts += row
                units = row[0, 3]
                sums[one.name] += [
                    (units - row[:, 2]).sum(),
                    (units - row[:, 2] + row[:, 0] - row[:, 1]).sum(),
                    row[:, 0].sum(),
                    row[:, 1].sum(),
                    units * len(row),
                ]
            net.append((counts[:, 0] - counts[:, 1]) / np.maximum(counts[:, 3], 1))
            of_active.append(counts[:, 0] / np.maximum(counts[:, 2], 1))
    kills = [_site_kill(site, sums[name], len(before)) for name, site in sites.items()]
    return KillProfile(kills, np.concatenate(net), np.concatenate(of_active), "")


def moving(oracle: Oracle, x: Tensor, region: Region) -> dict[str, Tensor]:
    """By site, which units (units,) bool differ on some of the inputs x (n, *shape) and of 16 random ones.

    The others are constants. One forward an input; only the least and the greatest value of every unit are kept.
    """
    random = Draws(0, "constant units").uniform(torch.arange(16, device=x.device), 0, tuple(x.shape[1:]))
    low, high = oracle.target.bounds
    ends: dict[str, tuple[Tensor, Tensor]] = {}
    for piece in (*torch.split(x, oracle.rows()), low + (high - low) * random):
        for site in (site for site in oracle.observe(piece, True).sites if depth(site, region) is not None):
            z = site.pre.flatten(1)
            least, most = ends.get(site.name, (z[0], z[0]))
            ends[site.name] = torch.minimum(least, z.amin(0)), torch.maximum(most, z.amax(0))
    # beyond what float32 rounds
    return {name: ~(b - a <= 1e-6 * torch.maximum(a.abs(), b.abs())) for name, (a, b) in ends.items()}


def _ends_of(site: Site, region: Region) -> bool:
    return any(name == region for name, _, _ in regions(site.kind, site.options))


def _killed(before: Tensor, after: Tensor) -> NDArray[np.float64]:
    """Per row (n, 4): units killed, revived, active before, and all."""
    units = torch.full((len(before),), before.shape[1], device=before.device)
    columns = [(after & ~before).sum(1), (before & ~after).sum(1), (~before).sum(1), units]
    return torch.stack(columns, 1).double().cpu().numpy()


def _site_kill(site: Site, sums: NDArray[np.float64], n: int) -> dict[str, Any]:
    shares = (float(value) for value in sums[:4] / max(sums[4], 1))
    return asdict(SiteKill(site.name, site.kind, round(sums[4] / n), *shares))


def _sites(target: Target, x: Tensor) -> tuple[Site, ...]:
    return _find(target, x[:2]).active


def _find(target: Target, x: Tensor) -> Sites:
    return find(target.model, target.normalization(x) if target.normalization else x)


def _by_site(loss: Tensor, sites: list[Tensor]) -> list[Tensor | None]:
    """The loss's gradient by each pre-activation; None where no path leads from it to the loss."""
    reached = [i for i, z in enumerate(sites) if z.requires_grad]
    if not loss.requires_grad or not reached:
        return [None] * len(sites)
    found = dict(zip(reached, torch.autograd.grad(loss, [sites[i] for i in reached], allow_unused=True), strict=True))
    return [found.get(i) for i in range(len(sites))]


def _properties(site: Site) -> Any:
    return activation(Spec(site.kind, site.options)).properties


def _saturated(site: Site, z: Tensor) -> Tensor:
    below, above = tails(site.kind, site.options)
    flat = torch.zeros_like(z, dtype=torch.bool)
    if below is not None:
        flat = flat | (z < below)
    return flat if above is None else flat | (z > above)
