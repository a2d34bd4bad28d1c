"""The whole result, and what it says of its data and examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from actsec.result.attacks import SecondOpinion
from actsec.result.findings import AcceptedFinding, ChecklistRow, EvidenceRow, GateResult, Problem
from actsec.result.variants import Advice, Comparison, Variant

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table that an attack changed, in the column's own units; change is in training deviations.

    A one-hot group is one cell, from a category to another, and its change is 0.
    """

    feature: str
    before: str
    after: str
    change: float


@dataclass(frozen=True, slots=True)
class Example:
    """One attacked input; its images are rows ``index`` of examples.npz (arrays original, attacked)."""

    index: int
    variant: str
    attack: str
    threat: str
    true: str
    before: str
    before_confidence: float
    after: str
    after_confidence: float
    size: float
    cells: tuple[Cell, ...] = ()


@dataclass(frozen=True, slots=True)
class SplitInfo:
    """One split of the data."""

    name: str
    n: int
    counts: dict[str, int]
    sha256: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, and what the adversary may do to it, in its own units; std is the training table's."""

    name: str
    group: str | None
    low: float
    high: float
    std: float
    step: float | None
    immutable: bool
    direction: str | None


@dataclass(frozen=True, slots=True)
class Executed:
    """Code of others that the audit executed: what it is for, whose it is, and the sha256 of its file.

    origin is the name of a file, or a module and the distribution with its version that brought it; sha256 is None
    where there is no file to hash. What the file imports is not hashed.
    """

    what: str
    origin: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Data:
    """The data the audit used."""

    name: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    bounds: tuple[float, float]
    grid: int | None
    splits: tuple[SplitInfo, ...]
    notes: tuple[str, ...]
    columns: tuple[Column, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The whole result. headline is the verdict in plain sentences, most important first."""

    schema: int
    actsec: str
    plan: dict[str, Any]
    plan_id: str
    command: str
    status: Literal["complete", "partial"]
    headline: tuple[str, ...]
    heading: str
    model: dict[str, Any]
    data: Data
    variants: tuple[Variant, ...]
    comparisons: tuple[Comparison, ...]
    advice: tuple[Advice, ...]
    problems: tuple[Problem, ...]
    gates: tuple[GateResult, ...]
    not_done: tuple[str, ...]
    examples: tuple[Example, ...]
    exit_code: int
    limits: tuple[str, ...] = field(default=())
    second_opinions: tuple[SecondOpinion, ...] = ()
    mask: str = ""
    accepted: tuple[AcceptedFinding, ...] = ()
    checklist: tuple[ChecklistRow, ...] = ()
    evidence: tuple[EvidenceRow, ...] = ()
    executed: tuple[Executed, ...] | None = None
