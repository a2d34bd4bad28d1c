"""Tables for the referee: the box of each row, the rules a candidate keeps, and models that take a table's own units.

Attacks see standardised columns, so that eps and sizes are in training standard deviations in every norm. What a plan
says of a column becomes three things: bounds, immutability and direction are a box of each row's own; steps and
one-hot groups are rules, which no box can hold; all of it is exact in the column's own units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from actsec import geometry
from actsec.errors import ModelError
from actsec.search.features import Table
from actsec.types import Cases, Normalization, Target, read_head

_ROUNDING = 2.0**-22
"""A float32 value is within this share of itself of the exact one, with room for two more roundings."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """A stepped column: at ``column``, values base + k * step in its own units, standardised by mean and std."""

    column: int
    mean: float
    std: float
    step: float
    base: float


@dataclass(frozen=True, slots=True)
class TableRules:
    """Steps and one-hot groups of standardised rows (m, columns) float32. groups are the columns of each."""

    lattices: tuple[Lattice, ...] = ()
    groups: tuple[tuple[int, ...], ...] = ()

    def snap(self, x: Tensor, cases: Cases) -> Tensor:
        """The nearest rows (m, columns) that keep the rules on the way from x back to cases.x.

        A stepped value goes to the next multiple towards the clean one, so that it never leaves ball or box. A one-hot
        group takes the category that x has most of; where that leaves ball or box all groups keep the clean one's.
        """
        stepped = self._stepped(x, cases.x)
        if not self.groups:
            return stepped
        moved, stayed = stepped.clone(), stepped
        for group in self.groups:
            at = torch.tensor(group, device=x.device)
            clean = cases.x[:, at]
            stayed = stayed.index_copy(1, at, clean)
            moved[:, at] = _chosen(x[:, at], clean)
        size = geometry.distance(moved, cases.x, cases.norm, self)
        fits = geometry.inside(moved[:, None], cases, size[:, None])
        return torch.where(fits, moved, stayed)

    def kept(self, x: Tensor) -> Tensor:
        """Whether rows (m, columns) lie on every lattice and have exactly one 1 in every group: bool (m,)."""
        kept = torch.ones(len(x), dtype=torch.bool, device=x.device)
        if self.lattices:
            at, number = self._numbers(x)
            kept = kept & (self._values(number.round()).to(x.dtype) == x[:, at]).all(1)
        for group in self.groups:
            part = x[:, list(group)]
            kept = kept & ((part == 0) | (part == 1)).all(1) & (part.sum(1) == 1)
        return kept

    def changed(self, x: Tensor, clean: Tensor) -> Tensor:
        """How many features differ between rows (m, columns): float64 (m,). A one-hot group is one feature."""
        differs = x != clean
        count = differs.sum(1)
        for group in self.groups:
            part = differs[:, list(group)]
            count = count - part.sum(1) + part.any(1)
        return count.double()

    def _stepped(self, x: Tensor, clean: Tensor) -> Tensor:
        if not self.lattices:
            return x
        at, number = self._numbers(x)
        origin = self._numbers(clean)[1].round()
        nearest = number.round()
        # A value on the lattice comes back from float32 a little beside it and must not fall to the next one.
        near = (number - nearest).abs() <= self._doubt(x[:, at])
        number = torch.where(near, nearest, origin + (number - origin).trunc())
        value = torch.where(number == origin, clean[:, at], self._values(number).to(x.dtype))
        return x.index_copy(1, at, value)

    def _numbers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The stepped columns, and where on its lattice each of their values lies (m, stepped): float64."""
        at = torch.tensor([each.column for each in self.lattices], device=x.device)
        mean, std, step, base = self._columns(x)
        return at, (x[:, at].double() * std + mean - base) / step

    def _values(self, number: Tensor) -> Tensor:
        """Standardised values (m, stepped) float64 of lattice points, by the formula the data was made with."""
        mean, std, step, base = self._columns(number)
        return (base + number * step - mean) / std

    def _doubt(self, x: Tensor) -> Tensor:
        mean, std, step, base = self._columns(x)
        return _ROUNDING * (x.double().abs() * std + mean.abs() + base.abs()) / step

    def _columns(self, like: Tensor) -> tuple[Tensor, ...]:
        rows = [(each.mean, each.std, each.step, each.base) for each in self.lattices]
        return tuple(torch.tensor(rows, dtype=torch.float64, device=like.device).unbind(1))


def _chosen(x: Tensor, clean: Tensor) -> Tensor:
    """The one-hot rows (m, categories) nearest to x; between the clean category and another, the other."""
    other = x.masked_fill(clean == 1, -torch.inf)
    most, which = other.max(1)
    own = (x * clean).sum(1)
    switched = torch.zeros_like(clean).scatter(1, which[:, None], 1.0)
    return torch.where(((most > 0) & (most >= own))[:, None], switched, clean)


def rules(table: Table) -> TableRules | None:
    """The rules of a table's columns; None when bounds say everything."""
    lattices = tuple(
        Lattice(i, f.mean, f.std, f.step, f.base) for i, f in enumerate(table.features) if f.step is not None
    )
    groups = tuple(table.groups.values())
    return TableRules(lattices, groups) if lattices or groups else None


def constrained(cases: Cases, table: Table | None) -> Cases:
    """The cases in the box of their own rows, under the table's rules; as they are without a table."""
    if table is None:
        return cases
    x, features = cases.x, table.features
    ends = [[(end - f.mean) / f.std for f in features for end in (f.low, f.high)]]
    box = torch.tensor(ends, dtype=torch.float64).to(x.dtype).reshape(-1, 2).to(x.device)
    low, high = (box[:, i].expand_as(x) for i in (0, 1))

    def where(chosen: Sequence[bool]) -> Tensor:
        return torch.tensor(list(chosen), device=x.device)

    low = torch.where(where([f.immutable or f.direction == "up" for f in features]), x, low)
    high = torch.where(where([f.immutable or f.direction == "down" for f in features]), x, high)
    return replace(cases, low=low.contiguous(), high=high.contiguous(), rules=rules(table))


@dataclass(frozen=True, slots=True)
class RawUnits(Normalization):
    """A table's own units from standardised rows, for models that were trained on them: x * std + mean, in float64.

    mean and std hold the inverse of the scaler's, as Normalization subtracts and divides. Values of stepped columns are
    put exactly on their lattice (37, not 37.000004), with the gradient passed straight through.
    """

    lattices: tuple[Lattice, ...] = ()

    label: ClassVar[str] = "raw units"

    def __call__(self, x: Tensor) -> Tensor:
        raw = (x.double() - _row(self.mean, x)) / _row(self.std, x)
        if self.lattices:
            at = torch.tensor([each.column for each in self.lattices], device=x.device)
            step, base = (_row([getattr(e, name) for e in self.lattices], x) for name in ("step", "base"))
            part = raw[:, at]
            on = base + ((part.detach() - base) / step).round() * step
            # Added in full precision on the graph's side: what is not on the lattice cancels exactly.
            raw = raw.index_copy(1, at, on + (part - part.detach()))
        return raw.to(x.dtype)


def _row(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64, device=like.device)


def raw_units(table: Table) -> RawUnits:
    """What turns a table's standardised rows back into its own units."""
    found = rules(table)
    return RawUnits(
        tuple(-f.mean / f.std for f in table.features),
        tuple(1 / f.std for f in table.features),
        found.lattices if found else (),
    )


class OneLabel(nn.Module):
    """One logit (n, 1) of a model that gives one for each label (n, labels)."""

    def __init__(self, model: nn.Module, index: int, output: str | None) -> None:
        super().__init__()
        self.model, self.index, self.output = model, index, output

    def forward(self, x: Tensor) -> Tensor:
        return read_head(self.model(x), self.output)[:, self.index : self.index + 1]


def one_label(target: Target, table: Table | None, threshold: float | None) -> Target:
    """The target that decides the audited label alone, of a model with one logit for each label column.

    A model that gives another number of logits decides that label already and is returned as it is. The threshold is
    the two-class target's. Raises ModelError for a number of outputs that fits neither.
    """
    if table is None or len(table.labels) < 2:
        return target
    found, count = len(target.classes), len(table.labels)
    if found == count:
        model = OneLabel(target.model, table.labels.index(table.label), target.output).eval()
        target = target.having(model=model, classes=("0", "1"), output=None)
    elif found != 2:
        raise ModelError(
            f"the model gives {found} logits, there are {count} label columns ({', '.join(table.labels)})",
            "It gives one logit for each label column, in their order, or decides the audited label alone.",
        )
    return target.having(threshold=threshold)


def other_units(target: Target, table: Table) -> list[Normalization | None]:
    """How else rows of a table may have been meant: standardised where the target takes raw units, and back."""
    return [None] if isinstance(target.normalization, RawUnits) else [raw_units(table)]
