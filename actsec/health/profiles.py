"""The units of every activation call over a set of inputs: who lives, and where the pre-activations lie.

One forward a row, watched as it runs; nothing of a pass is kept but sums by unit and counts by bin, so that memory is a
few numbers a unit however many the inputs. The model is left as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from actsec.activations import Site, activation, find, watch
from actsec.activations.regions import regions
from actsec.activations.watching import Call
from actsec.health.vitals import LIVE, Units
from actsec.search.oracle import frozen
from actsec.spec import Spec
from actsec.types import Target

BINS, SAMPLE = 40, 4096
"""Bins of a histogram, and the most units of a site whose pre-activations it counts."""
_LINEAR = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (BatchNorm, nn.LayerNorm, nn.GroupNorm)
_ROWS = 2


@dataclass(frozen=True, slots=True)
class Feeder:
    """The layer whose output is a site's pre-activation as it is. axis is where its channels stand in (n, *shape)."""

    name: str
    module: nn.Module
    axis: int

    @property
    def norms(self) -> bool:
        """Whether it is a norm, whose scale stands for its weights."""
        return isinstance(self.module, _NORMS)

    def channels(self, shape: tuple[int, ...]) -> Tensor:
        """The channel of every unit (units,) of a site of this shape, without the batch."""
        axis = self.axis % (len(shape) + 1) - 1
        index = torch.arange(shape[axis]).reshape([-1 if at == axis else 1 for at in range(len(shape))])
        return index.expand(shape).reshape(-1)


@dataclass(slots=True)
class Profile:
    """Running sums of one site: by unit the rows on which it lives, would without its bias, and moments of z."""

    site: Site
    feeder: Feeder | None
    rows: int = 0
    finite: bool = True
    live: Tensor | None = None
    unbiased: Tensor | None = None
    total: Tensor | None = None
    squares: Tensor | None = None
    low: float = 0.0
    high: float = 0.0
    counts: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))
    bare: bool = False  # who lives is all that is counted

    def add(self, pre: Tensor) -> None:
        """Count one batch of pre-activations (rows, *shape)."""
        z = pre.detach().reshape(-1, math.prod(self.site.shape))
        if not self.finite or not bool(torch.isfinite(z).all()):
            self.finite = False
            return
        self.rows += len(z)
        if (ends := self.ends) is not None:
            self.live = _plus(self.live, _between(z, ends).sum(0, dtype=torch.int32))
        if self.bare:
            return
        if ends is not None:
            bias = None if self.feeder is None else getattr(self.feeder.module, "bias", None)
            if isinstance(bias, Tensor) and self.feeder is not None:
                at = self.feeder.channels(self.site.shape).to(z.device)
                freed = _between(z - bias.detach()[at], ends).sum(0, dtype=torch.int32)
                self.unbiased = _plus(self.unbiased, freed)
        self.total = _plus(self.total, z.sum(0, dtype=torch.float64))
        self.squares = _plus(self.squares, z.square().sum(0, dtype=torch.float64))
        picked = torch.linspace(0, z.shape[1] - 1, min(z.shape[1], SAMPLE), device=z.device).long()
        self._bin(z[:, picked].flatten().float().cpu())

    @property
    def ends(self) -> tuple[float, float] | None:
        """Between which pre-activations a unit lives; None for a kind without a dead, saturated or zero region."""
        found = regions(self.site.kind, self.site.options)
        if not found:
            return None
        _, below, above = found[0]
        return -math.inf if below is None else below, math.inf if above is None else above

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z over rows, by unit (units,)."""
        if self.total is None or self.squares is None:
            raise ValueError("nothing was counted")
        mean = self.total / self.rows
        return mean, (self.squares / self.rows - mean.square()).clamp(min=0).sqrt()

    def gone(self) -> Tensor | None:
        """Which units (units,) live on no row; None where that cannot be said."""
        return self.live == 0 if self.live is not None and self.finite else None

    def units(self) -> Units:
        """The record of it."""
        count, known = math.prod(self.site.shape), self.finite and self.total is not None
        mean = std = quantiles = None
        if known and self.total is not None and self.squares is not None:
            mean = float(self.total.mean() / self.rows)
            std = math.sqrt(max(float(self.squares.mean() / self.rows) - mean * mean, 0.0))
            quantiles = (self._quantile(0.05), self._quantile(0.5), self._quantile(0.95))
        return Units(
            site=self.site.name,
            kind=self.site.kind,
            count=count,
            live=_levels(self.live / self.rows) if known and self.live is not None else None,
            low=self.low,
            high=self.high,
            counts=tuple(int(n) for n in self.counts) if known else (),
            marks=marks(self.site),
            mean=mean,
            std=std,
            quantiles=quantiles,
        )

    def _bin(self, values: Tensor) -> None:
        """Count values; the first batch decides the range, the outer bins take what lies beyond."""
        if self.low == self.high:
            kept = values if len(values) <= 1 << 20 else values[:: len(values) >> 20]
            ends = torch.quantile(kept.double(), torch.tensor([0.001, 0.999], dtype=torch.float64))
            room = max(float(ends[1] - ends[0]) * 0.1, 1e-6 * float(ends.abs().max()), 1e-12)
            self.low, self.high = float(ends[0]) - room, float(ends[1]) + room
        at = ((values.double() - self.low) / (self.high - self.low) * BINS).long().clamp(0, BINS - 1)
        self.counts += torch.bincount(at, minlength=BINS)

    def _quantile(self, share: float) -> float:
        wanted, below = share * float(self.counts.sum()), 0.0
        width: float = (self.high - self.low) / BINS
        for at, count in enumerate(self.counts.tolist()):
            if count and below + count >= wanted:
                return float(self.low + width * (at + (wanted - below) / count))
            below += count
        return self.high


def profile(
    target: Target, x: Tensor, sites: tuple[Site, ...] | None = None, batch: int = 128, *, bare: bool = False
) -> dict[str, Profile]:
    """The profile of every hidden activation call that sees the input, by name in call order, on x (n, *shape).

    ``sites`` are those of a ``find`` on the same model; it costs a forward or two to find them. One forward a row.
    ``bare`` counts on how many rows each unit lives, and nothing else.
    """
    with frozen(target.model), torch.no_grad():
        torch.manual_seed(0)  # for a model that draws
        asked = x[:_ROWS] if target.normalization is None else target.normalization(x[:_ROWS])
        known = find(target.model, asked).active if sites is None else sites
        found = {site.name: Profile(site, None, bare=bare) for site in known}
        for name, feeder in () if bare else _feeders(target, x[:_ROWS], frozenset(found)).items():
            found[name].feeder = feeder

        def read(call: Call) -> None:
            if math.prod(call.pre.shape[1:]) == math.prod(found[call.name].site.shape):
                found[call.name].add(call.pre)

        with watch(target.model, only=frozenset(found), post=False, read=read):
            for piece in torch.split(x, min(batch, target.batch)):
                target.logits(piece)
    return found


def marks(site: Site) -> tuple[float, ...]:
    """Where an activation bends or saturates: the ends of its dead, saturated and zero regions, and a kink at 0."""
    known = activation(Spec(site.kind, site.options))
    if not known.elementwise:
        return ()
    alike = known.properties
    found = {end for end in (alike.dead_below, alike.saturated_below, alike.saturated_above) if end is not None}
    for _, below, above in regions(site.kind, site.options):
        found |= {end for end in (below, above) if end is not None}
    if math.isinf(alike.curvature) and not found:
        found = {0.0}
    return tuple(sorted(found))


def _feeders(target: Target, x: Tensor, names: frozenset[str]) -> dict[str, Feeder]:
    """By site the layer whose output it reads, untouched since. Residual sums and functional layers feed nothing."""
    made: dict[int, tuple[str, nn.Module, Tensor, int]] = {}
    found: dict[str, Feeder] = {}

    def read(call: Call) -> None:
        known = made.get(call.pre.untyped_storage().data_ptr())
        if known is None or _writes(known[2]) != known[3] or known[2].numel() != call.pre.numel():
            return
        name, module, output, _ = known
        axis = -1 if isinstance(module, (nn.Linear, nn.LayerNorm)) else 1
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            return
        # a view between (flatten) moves the channels: only what keeps its shape can be told unit by unit
        if output.shape == call.pre.shape:
            found[call.name] = Feeder(name, module, axis)

    with _outputs(target.model, made), watch(target.model, only=names, post=False, read=read):
        target.logits(x)
    return found


@contextmanager
def _outputs(model: nn.Module, made: dict[int, tuple[str, nn.Module, Tensor, int]]) -> Iterator[None]:
    """Note in ``made`` what layers and norms return while the block lasts, by where it lies in memory."""
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            made[output.untyped_storage().data_ptr()] = (names[module], module, output, _writes(output))

    hooks = [module.register_forward_hook(note) for module in names if isinstance(module, (*_LINEAR, *_NORMS))]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _writes(tensor: Tensor) -> int:
    """How often a tensor's memory has been written since it was made: a sum in place leaves it where it was."""
    return tensor._version  # noqa: SLF001  # torch has no public name for it


def _between(z: Tensor, ends: tuple[float, float]) -> Tensor:
    """Where z lies above the lower end and not above the upper."""
    low, high = ends
    inside = z > low
    return inside if math.isinf(high) else inside & (z <= high)


def _levels(shares: Tensor) -> tuple[int, ...]:
    """How many of the shares (units,) are 0, in each tenth, and 1."""
    tenth = (shares * 10).ceil().long().clamp(1, 10)
    level = torch.where(shares <= 0, 0, torch.where(shares >= 1, len(LIVE) - 1, tenth))
    return tuple(int(n) for n in torch.bincount(level.cpu(), minlength=len(LIVE)))


def _plus(sums: Tensor | None, more: Tensor) -> Tensor:
    return more if sums is None else sums + more
