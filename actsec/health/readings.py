"""What a monitor keeps of one activation site, and what it says of it.

Of a watched pass: at most ``rows`` rows and UNITS units of the pre-activation, always the same units. Shares are means
over what was looked at since the last reading; which units are dead for good is kept over readings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from actsec.activations.calls import Options
from actsec.activations.catalogue import activation
from actsec.activations.listing import Site
from actsec.activations.regions import tails
from actsec.errors import DataError
from actsec.health.drift import RULE as DRIFT
from actsec.health.drift import WINDOWS, limit, stability
from actsec.spec import Spec
from actsec.verdict.activity import DEAD, SATURATED

UNITS = 16384
"""The most units of a site that are looked at, evenly spread."""
VALUES, BINS = 1024, 10
"""Values of a pass that enter the histogram, and its bins: the deciles of the first window of the baseline."""
LONG = 256
"""Rows in a row on which a unit must be dead to be called permanently dead."""
NOT_FINITE, DEAD_UNITS, FLAT = "ACT-A00", "ACT-A01", "ACT-A03"
UNRESOLVED, NO_SITE = "ACT-A02", "ACT-A06"


@dataclass(frozen=True, slots=True)
class Reading:
    """One site over one window. Shares are in [0, 1]; None where a number does not exist.

    step is the number of the forward pass at the end; rows, how many rows were looked at. permanently_dead is the share
    of units dead on each of the last LONG rows, of all rows so far where these are fewer (then it is no finding yet).
    not_finite is the share of values that are NaN or infinite; a window with such values has no other share, for a NaN
    is neither dead nor alive. drift is the population-stability index against the baseline. findings are ids of
    ``actsec diagnose``, and ACT-A20 for drift. A note stands where there is something to say and no site to read.
    """

    step: int
    site: str | None = None
    kind: str | None = None
    training: bool = False
    rows: int = 0
    units: int = 0
    dead: float | None = None
    permanently_dead: float | None = None
    saturated: float | None = None
    not_finite: float | None = None
    drift: float | None = None
    findings: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """The baseline of a site: edges of its bins, the share of values in each, and the largest drift within it."""

    kind: str
    edges: tuple[float, ...]
    shares: tuple[float, ...]
    noise: float

    @property
    def limit(self) -> float:
        """The drift from which the site counts as drifted."""
        return limit(self.noise)


def profile(name: str, given: Any) -> Profile:
    """A profile from JSON. Raises DataError for anything that is not one."""
    try:
        edges, shares = tuple(map(float, given["edges"])), tuple(map(float, given["shares"]))
        made = Profile(str(given["kind"]), edges, shares, float(given["noise"]))
    except (KeyError, TypeError, ValueError) as problem:
        raise DataError(f"the baseline of {name!r} cannot be read: {problem!r}", "Save it anew.") from problem
    numbers = (*edges, *shares, made.noise)
    whole = len(shares) == len(edges) + 1 and abs(sum(shares) - 1) < 1e-3 and min(shares) >= 0
    if not all(map(math.isfinite, numbers)) or list(edges) != sorted(set(edges)) or not edges or not whole:
        raise DataError(f"the baseline of {name!r} is no histogram", "Save it anew.")
    return made


@dataclass(slots=True)
class Look:
    """One pass at one site: numbers that do not change any more, whatever the model does next."""

    rows: int
    units: int
    values: int
    not_finite: int
    dead: float | None = None  # summed over rows, the share of units
    saturated: float | None = None
    alive: Tensor | None = None  # (units,) bool: alive on some row
    sample: Tensor | None = None  # (values,), sorted


def look(site: Site, z: Tensor, rows: int) -> Look:
    """Look at the pre-activation z (n, ...) of a pass. Keeps nothing of z."""
    with torch.inference_mode(False), torch.no_grad():
        v = _some(site, z.detach(), rows)
        seen = Look(v.shape[0], v.shape[1], v.numel(), 0)
        if not math.isfinite(float(v.sum())):  # one sweep where all is well; a finite sum has finite terms
            seen.not_finite = int((~torch.isfinite(v)).sum())
        if seen.not_finite or not seen.values:
            return seen
        bar, below, above = _bars(site.kind, site.options)
        if bar is not None:
            dead = (v <= bar).sum(0, dtype=torch.int32)
            seen.dead = float(dead.sum()) / seen.units
            seen.alive = dead < seen.rows
        low, high = (None if below is None else v < below), (None if above is None else v > above)
        sides = [float(side.sum()) for side in (low, high) if side is not None]
        if sides:
            seen.saturated = sum(sides) / seen.units
        # an odd stride, so that it does not fall on the same channel or column again and again
        seen.sample = v.reshape(-1)[:: max(1, seen.values // VALUES) | 1].sort().values
        return seen


@cache
def _bars(kind: str, options: Options) -> tuple[float | None, float | None, float | None]:
    """Where a unit is dead at or below, saturated below, and saturated above."""
    alike = activation(Spec(kind, options)).properties
    return (alike.dead_below if alike.can_die else None, *tails(kind, options))


def _some(site: Site, z: Tensor, rows: int) -> Tensor:
    """At most so many rows of z and at most UNITS of its units, evenly spread, (rows, units) in float32 or float64."""
    size = math.prod(site.shape)
    whole = size > 0 and z.numel() % size == 0 and z.shape[-len(site.shape) :] == site.shape
    v = z.reshape(-1, *site.shape) if whole else z if z.dim() > 1 else z.reshape(1, -1)
    v = v[:: max(1, -(-len(v) // rows))]
    v = v.reshape(len(v), -1)
    v = v[:, :: max(1, -(-v.shape[1] // UNITS))]
    return v if v.dtype in (torch.float32, torch.float64) else v.float()


@dataclass(slots=True)
class Histogram:
    """Shares of values by bin, each pass by its rows."""

    sums: list[float] = field(default_factory=list)
    rows: int = 0

    def add(self, shares: Sequence[float], rows: int) -> None:
        sums = self.sums or [0.0] * len(shares)
        self.sums = [old + rows * share for old, share in zip(sums, shares, strict=True)]
        self.rows += rows

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(each / self.rows for each in self.sums)

    @staticmethod
    def of(parts: Sequence[Histogram]) -> Histogram:
        whole = Histogram()
        for part in parts:
            whole.add(part.shares, part.rows)
        return whole


@dataclass(slots=True)
class Tally:
    """One site: sums of the running window, each unit's dead rows in a row, and the histogram's baseline."""

    site: Site
    window: int
    base: Profile | None = None
    given: bool = False  # the baseline was given, so that it stays when the weights change
    looks: list[Look] = field(default_factory=list)
    since: Tensor | None = None  # (units,) rows since it was alive
    rows: int = 0  # on which ``since`` rests
    edges: Tensor | None = None
    early: list[Histogram] = field(default_factory=list)  # windows of which the baseline is to be made
    late: Histogram = field(default_factory=Histogram)
    first: list[tuple[Tensor, int]] = field(default_factory=list)
    judged: bool = False  # a whole window was held against a baseline

    @property
    def held(self) -> int:
        """The rows kept for a baseline so far, at the weights that there are."""
        return sum(rows for _, rows in self.first) + sum(part.rows for part in self.early)

    def forget(self) -> None:
        """The weights are others: a baseline of these weights says nothing any more."""
        if not self.given:
            self.base, self.edges, self.early, self.first = None, None, [], []
        self.late = Histogram()

    def add(self, seen: Look, still: bool) -> None:
        """Count one pass; ``still``: in eval mode, with the weights of the pass before."""
        self.looks.append(seen)
        if seen.not_finite or seen.sample is None:
            return
        if seen.alive is not None:
            if self.since is None or self.since.shape != seen.alive.shape or self.since.device != seen.alive.device:
                self.since, self.rows = torch.zeros_like(seen.alive, dtype=torch.int32), 0
            self.since = torch.where(seen.alive, 0, (self.since + seen.rows).clamp(max=LONG))
            self.rows += seen.rows
        if still:
            self._histogram(seen.sample, seen.rows)

    def _histogram(self, sample: Tensor, rows: int) -> None:
        if self.edges is None and self.base is not None:
            self.edges = sample.new_tensor(self.base.edges)
        if self.edges is None:  # a window of values is kept until it tells where the bins are
            self.first.append((sample, rows))
            if sum(many for _, many in self.first) >= self.window:
                self.edges = _deciles(torch.cat([values for values, _ in self.first]).sort().values)
                kept, self.first = self.first, []
                for values, many in kept:
                    self._histogram(values, many)
            return
        ends = [0, *torch.searchsorted(sample, self.edges.to(sample), right=True).tolist(), len(sample)]
        shares = [(b - a) / len(sample) for a, b in pairwise(ends)]
        if self.base is not None:
            self.late.add(shares, rows)
            return
        if not self.early or self.early[-1].rows >= self.window:
            self.early.append(Histogram())
        self.early[-1].add(shares, rows)
        if len(self.early) == WINDOWS and self.early[-1].rows >= self.window:
            noise = max(
                stability(one.shares, Histogram.of([other for other in self.early if other is not one]).shares)
                for one in self.early
            )
            whole = Histogram.of(self.early).shares
            self.base, self.early = Profile(self.site.kind, tuple(self.edges.tolist()), whole, noise), []

    def read(self, step: int, training: bool) -> Reading | None:
        """The window's reading, and a new window begins. None when the site was not called."""
        looks, late = self.looks, self.late
        if not looks:
            return None
        self.looks, self.late = [], Histogram()
        rows, values = sum(seen.rows for seen in looks), sum(seen.values for seen in looks)
        broken = sum(seen.not_finite for seen in looks) / max(values, 1)
        dead, saturated, drift = _share(looks, "dead"), _share(looks, "saturated"), None
        gone = None
        if dead is not None and self.since is not None and self.rows:
            gone = float((self.since >= min(LONG, self.rows)).float().mean())
        if late.rows and self.base is not None and not broken:
            drift = stability(late.shares, self.base.shares)
            self.judged |= late.rows >= self.window
        steep = _bars(self.site.kind, self.site.options)[2] is not None
        holds = {
            NOT_FINITE: broken > 0,
            DEAD_UNITS: gone is not None and gone > DEAD and self.rows >= LONG,
            FLAT: steep and saturated is not None and saturated > SATURATED,
            DRIFT: late.rows >= self.window and self._beyond(drift),
        }
        findings = tuple(rule for rule, said in holds.items() if said)
        shares = (dead, gone, saturated, broken, drift)
        d, g, s, n, p = (None if share is None else round(share, 6) for share in shares)
        units = max(seen.units for seen in looks)
        return Reading(step, self.site.name, self.site.kind, training, rows, units, d, g, s, n, p, findings)

    def _beyond(self, drift: float | None) -> bool:
        return drift is not None and self.base is not None and drift > self.base.limit


def _share(looks: list[Look], name: str) -> float | None:
    """The mean over rows; None where a look has a value that is not finite, or the site has no such region."""
    sums, rows = [getattr(seen, name) for seen in looks], sum(seen.rows for seen in looks)
    return None if None in sums or not rows else float(sum(sums)) / rows


def _deciles(sample: Tensor) -> Tensor:
    """The inner deciles of sorted values, each a little above its value: rounding moves no atom over an edge."""
    at = torch.arange(1, BINS, device=sample.device) * (len(sample) - 1) // BINS
    edges = sample[at]
    above: Tensor = torch.unique(edges + 1e-5 * torch.maximum(edges.abs(), sample[-1] - sample[0]).clamp(min=1e-30))
    return above
