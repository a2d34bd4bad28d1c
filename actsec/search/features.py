"""Columns of a table: what the adversary may do to each, and how its units become the model's. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from actsec import spec as notation
from actsec.errors import BadOption, PlanError
from actsec.spec import Spec, Value, show

Direction = Literal["up", "down"]
MOST_DECIMALS = 12


@dataclass(frozen=True, slots=True)
class FeatureRule:
    """What a plan says of one column, in the column's own units: ``[features.AGE]`` or ``AGE(step=1, direction=up)``.

    A column of text is a one-hot group already and can only be immutable.
    """

    name: str
    min: Annotated[float | None, "least value; none is the least in the data"] = None
    max: Annotated[float | None, "largest value; none is the largest in the data"] = None
    step: Annotated[float | None, "only multiples of it from min (from 0 where none is given); 1 is whole numbers"] = (
        None
    )
    immutable: Annotated[bool, "the adversary cannot change it"] = False
    direction: Annotated[Direction | None, "up or down: the only way it can change"] = None
    group: Annotated[str | None, "0/1 columns of one name are one choice: exactly one of them is 1"] = None

    def __post_init__(self) -> None:
        where = f"feature {self.name!r}"
        for option in ("min", "max", "step"):
            value = getattr(self, option)
            if value is not None and not math.isfinite(value):
                raise BadOption(f"{where}: {option} = {value}", "Give a finite number, or leave it out.")
        if self.min is not None and self.max is not None and not self.min < self.max:
            raise BadOption(f"{where}: min = {self.min:g} and max = {self.max:g}", "min lies below max.")
        if self.step is not None and not self.step > 0:
            raise BadOption(f"{where}: step = {self.step:g}", "Give a step above 0, such as 1 for whole numbers.")
        if self.immutable and self.direction is not None:
            raise BadOption(f"{where} is immutable and has a direction", "Give one of them.")
        given = [option for option in ("min", "max", "step") if getattr(self, option) is not None]
        if self.group is not None and given:
            raise BadOption(f"{where}: {given[0]} in the one-hot group {self.group!r}", "Its values are 0 and 1.")

    @staticmethod
    def parse(text: str) -> FeatureRule:
        """Read ``NAME(option=value, ...)``; the name may hold spaces. Raises SpecError, UnknownName or BadOption."""
        name, bracket, options = text.strip().rpartition("(")
        if not bracket or not name.strip():
            raise BadOption(f"cannot read the feature {text!r}", "Write NAME(option=value): 'AGE(step=1, min=0)'.")
        return _built(name.strip(), notation.parse(f"feature({options}").options)

    @staticmethod
    def read(name: str, table: Any) -> FeatureRule:
        """Read one table ``[features.NAME]``. Raises PlanError, UnknownName or BadOption."""
        if not isinstance(table, Mapping):
            raise PlanError(f"features.{name} = {table!r}", f"Write a table: [features.{name}] and step = 1 below it.")
        return _built(name, tuple(table.items()))

    @property
    def options(self) -> dict[str, Value]:
        """What is not left at its default, by name."""
        named = ("min", "max", "step", "immutable", "direction", "group")
        values = {name: getattr(self, name) for name in named}
        return {name: value for name, value in values.items() if value is not None and value is not False}


def _built(name: str, options: Sequence[tuple[str, Value]]) -> FeatureRule:
    found = Spec(name, (("name", name), *options))
    if any(key == "name" for key, _ in options):
        raise BadOption(f"feature {name!r}: its name is given twice", "Leave name out.")
    return notation.build(FeatureRule, found, "feature")


@dataclass(frozen=True, slots=True)
class Feature:
    """One input of the model: a column of numbers, or one category of a column of text (``colour=red``).

    mean and std are of the training table: x = (value - mean) / std. low, high, step and base are in the column's own
    units; values of a stepped column are base + k * step. group names the one-hot group; category, the value it stands
    for in it. decimals is how many places its values are written with.
    """

    name: str
    mean: float
    std: float
    low: float
    high: float
    step: float | None = None
    base: float = 0.0
    immutable: bool = False
    direction: Direction | None = None
    group: str | None = None
    category: str = ""
    decimals: int = 0

    def original(self, x: float) -> float:
        """The value in the column's own units of an input x; exactly on the lattice for a stepped column."""
        value = x * self.std + self.mean
        return value if self.step is None else self.base + round((value - self.base) / self.step) * self.step

    def words(self, before: float, after: float) -> tuple[str, str]:
        """A value and what it was changed to, with the column's decimals and as many more as tell them apart.

        Two more for a change of whole numbers that may be fractions: 78 that became 83.40 must not read 83.
        """
        least = 2 if self.step is None and self.decimals == 0 else self.decimals
        places = least
        while places < MOST_DECIMALS and before != after and _plain(before, places) == _plain(after, places):
            places += 1
        return _plain(before, self.decimals if places == least else places), _plain(after, places)


def _plain(value: float, places: int) -> str:
    return f"{value:.{places}f}" if abs(value) < 1e12 else f"{value:.6g}"


@dataclass(frozen=True, slots=True)
class Table:
    """The inputs of a table in the order the model takes them, and the columns its labels were read from.

    labels are all label columns; label is the one audited; scaled_by says whose means and deviations are used.
    """

    features: tuple[Feature, ...]
    label: str
    labels: tuple[str, ...]
    scaled_by: str

    @property
    def identity(self) -> str:
        """A text of all that decides an attack on these rows: how values are written does not."""
        return repr(replace(self, features=tuple(replace(feature, decimals=0) for feature in self.features)))

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """The columns of each one-hot group."""
        found: dict[str, list[int]] = {}
        for i, feature in enumerate(self.features):
            if feature.group is not None:
                found.setdefault(feature.group, []).append(i)
        return {name: tuple(columns) for name, columns in found.items()}

    @property
    def confined(self) -> bool:
        """Whether an adversary without a budget still cannot turn every row into every other."""
        return any(f.immutable or f.direction or f.step or f.group for f in self.features)

    @property
    def box(self) -> tuple[float, float]:
        """The least and the largest value any input can have, in the model's units."""
        lows = [(f.low - f.mean) / f.std for f in self.features]
        highs = [(f.high - f.mean) / f.std for f in self.features]
        return min(lows), max(highs)


def echo_eps(eps: float, table: Table, norm: str) -> str:
    """An eps of a table in words: training standard deviations, and what that is for the first few columns."""
    total = len({f.group or f"column {i}" for i, f in enumerate(table.features)})
    if norm == "l0":
        return f"{eps:g} of {total} features, free in the range each of them has; a one-hot group is one feature"
    numbers = [f for f in table.features if f.group is None and not f.immutable]
    said = ", ".join(f"{f.name} {_short(eps * f.std)}" for f in numbers[:3])
    more = ", ..." if len(numbers) > 3 else ""
    unit = "1 standard deviation" if eps == 1 else f"{show(eps)} standard deviations"
    if norm == "linf":
        return f"{unit} of the {table.scaled_by} table in each column" + (f": {said}{more}" if said else "")
    return f"{unit} of the {table.scaled_by} table in all, {norm}" + (f" (in one column: {said}{more})" if said else "")


def _short(value: float) -> str:
    """Three significant digits without an exponent, where that is short."""
    return f"{value:.0f}" if 1000 <= value < 1e9 else f"{value:.3g}"
