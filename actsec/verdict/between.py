"""Two runs of the same audit: a new model beside an old one, number by number, paired on the same examples.

Only runs that asked the same are compared: the same test examples in the same order, threats, attacks and budget. A
defense's own adaptive attacks may come on top in the new run: they can only make it look weaker.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from actsec import registry
from actsec.errors import NotComparable, PlanError, unknown
from actsec.planning.jobs import headline_threats
from actsec.planning.plan import Facts, Plan, Trial
from actsec.reports.load import read
from actsec.reports.order import is_checkup
from actsec.reports.words import minus
from actsec.result import Comparison, Result, Variant
from actsec.running.store import Store, reading
from actsec.verdict import effects
from actsec.verdict.effects import ALL, Pair
from actsec.verdict.gathering import Gathered, gather

LOWER_IS_BETTER = ("ece", "nonsense_above_90", "dead_units")
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Flips:
    """Of the examples right in the base, those wrong in the new run (lost), and the other way round (won)."""

    metric: str
    lost: int
    won: int


@dataclass(frozen=True, slots=True)
class Held:
    """What --fail-on came to for one metric."""

    metric: str
    margin: float
    outcome: Literal["passed", "failed", "no verdict"]
    why: str


@dataclass(frozen=True, slots=True)
class Compared:
    """Two runs compared. rows: new less base, with its 95 % interval, exact McNemar p of shares and a verdict."""

    schema: int
    base: str
    new: str
    same_model: bool
    notes: tuple[str, ...]
    rows: tuple[Comparison, ...]
    flips: tuple[Flips, ...]
    held: tuple[Held, ...]
    exit_code: int


@dataclass(frozen=True, slots=True)
class Side:
    """One finished run and its audited model."""

    name: str
    plan: Plan
    facts: Facts
    result: Result
    gathered: Gathered

    @property
    def variant(self) -> Variant:
        return next(v for v in self.result.variants if v.id == self.gathered.variant.name)

    @property
    def trials(self) -> dict[tuple[str, str, int], Trial]:
        """The attacks on the audited model, every option written out; adaptive ones are left out."""
        asked = (t for t in self.faced if t.role != "adaptive")
        return {(str(registry.canonical("attacks", t.attack)), t.threat, t.samples): t for t in asked}

    @property
    def faced(self) -> tuple[Trial, ...]:
        """Every attack on the audited model."""
        return tuple(t for t in self.plan.attacks if not t.variants or self.gathered.variant.name in t.variants)


def compare(base: str | Path, new: str | Path, fail_on: Sequence[str] = (), margin: float = 0.0) -> Compared:
    """Compare the audited models of two finished runs.

    fail_on names metrics that may not become worse, by more than margin where it is above 0. Raises StoreError for a
    folder that holds no run, NotComparable for two that did not ask the same.
    """
    with reading(f"{base} or {new}"):
        return _compare(side(base), side(new), fail_on, margin)


def _compare(before: Side, after: Side, fail_on: Sequence[str], margin: float) -> Compared:
    check(before, after)
    both = _pair(before, after)
    rows = tuple(_rows(both))
    held = hold(rows, fail_on, margin)
    outcomes = {each.outcome for each in held}
    return Compared(
        SCHEMA,
        before.name,
        after.name,
        before.facts.model == after.facts.model and before.gathered.variant == after.gathered.variant,
        tuple(_notes(before, after)),
        rows,
        tuple(_flips(both)),
        held,
        1 if "failed" in outcomes else 3 if "no verdict" in outcomes else 0,
    )


def side(folder: str | Path) -> Side:
    """A run read back. Raises StoreError, and NotComparable when it is not finished."""
    place = Path(folder)
    if not (place / "plan.toml").is_file() and (place / "report.json").is_file() and is_checkup(read(place).result):
        raise NotComparable(
            f"{folder} holds a checkup, which attacks nothing",
            f"Compare two audits (actsec audit --out RUN); to see the checkup again: actsec report {folder}",
        )
    store = Store.open(folder)
    plan, facts, result = store.plan(), store.facts(), read(folder).result
    if result.status != "complete":
        raise NotComparable(f"{folder} is not finished", f"Finish it: actsec resume {folder}")
    first = next(g for g in gather(plan, facts, store) if g.variant.audited)
    return Side(str(folder), plan, facts, result, first)


def check(base: Side, new: Side) -> None:
    """Raise NotComparable, naming every difference, unless two runs asked the same."""
    found = []
    for what, before, after in (
        ("test data", base.facts.test[:12], new.facts.test[:12]),
        ("classes", base.facts.classes, new.facts.classes),
        ("input shape", base.facts.shape, new.facts.shape),
        ("bounds", base.result.data.bounds, new.result.data.bounds),
        ("mask", base.facts.mask, new.facts.mask),
        ("table rules", base.result.data.columns, new.result.data.columns),
        ("seed", base.plan.seed, new.plan.seed),
        ("images of each class", base.plan.per_class, new.plan.per_class),
        ("budget", base.plan.budget, new.plan.budget),
        ("eps", base.plan.eps, new.plan.eps),
        ("threats", _threats(base), _threats(new)),
    ):
        if before != after:
            found.append(f"{what}: {_said(before)} against {_said(after)}")
    if not found:
        sides = ((base, new.trials.keys()), (new, base.trials.keys()))
        for each, others in sides:
            found += [
                f"only {each.name} ran {t.attack} at {t.threat} on {t.samples}"
                for key, t in each.trials.items()
                if key not in others
            ]
    if found:
        raise NotComparable(
            f"{base.name} and {new.name} did not ask the same: {'; '.join(found)}",
            f"Audit the new model by the plan of the old one: {Path(base.name) / 'plan.toml'}.",
        )


def hold(rows: Sequence[Comparison], fail_on: Sequence[str], margin: float) -> tuple[Held, ...]:
    """What becomes of each metric that may not become worse. ``robust_accuracy`` speaks of every threat.

    Without a margin: failed when it is detectably worse. With one: passed when the interval rules out a loss above it,
    failed when the whole interval lies above it, else no verdict. Raises UnknownName, PlanError.
    """
    if not margin >= 0:
        raise PlanError(f"--worse-than {margin:g} is below 0", "Give how much may be lost: 0.03 is 3 points.")
    found = []
    for metric in fail_on:
        meant = [row for row in rows if metric in (row.metric, row.metric.partition("@")[0])]
        if not meant:
            raise unknown("metric (--fail-on)", metric, [row.metric for row in rows])
        found += [_hold(row, margin) for row in meant]
    return tuple(found)


def _hold(row: Comparison, margin: float) -> Held:
    down = row.metric.partition("@")[0] not in LOWER_IS_BETTER
    least, most = (-row.high, -row.low) if down else (row.low, row.high)
    interval = minus(f"{row.difference:+.4g}, 95 % interval {row.low:+.4g} to {row.high:+.4g}")
    if row.verdict == "not comparable":
        why = f"{interval}: one of the two numbers is void, see its sanity checks"
        return Held(row.metric, margin, "no verdict", why)
    if margin == 0:
        return Held(row.metric, margin, "failed" if row.verdict == "worse" else "passed", f"{row.verdict}: {interval}")
    if least > margin:
        return Held(row.metric, margin, "failed", f"worse by more than {margin:g}: {interval}")
    if most <= margin:
        return Held(row.metric, margin, "passed", f"not worse by more than {margin:g}: {interval}")
    return Held(row.metric, margin, "no verdict", f"{interval} holds a loss of {margin:g}: test more images")


def _pair(base: Side, new: Side) -> Pair:
    """The audited models as the comparisons within a run take them: under one name, by one plan."""
    plan = base.plan.having(attacks=tuple(dataclasses.replace(t, variants=()) for t in base.trials.values()))
    named = dataclasses.replace(new.gathered.variant, name=new.name)
    other = dataclasses.replace(new.gathered, variant=named)
    first = dataclasses.replace(base.gathered, variant=dataclasses.replace(base.gathered.variant, name=base.name))
    void = {t.threat for each in (base, new) for t in each.variant.threats if not t.believable or t.state == "masked"}
    if base.gathered.clean is None or new.gathered.clean is None:
        raise NotComparable("clean accuracy was not measured in both runs", "Run `actsec resume` on them.")
    return Pair(first, other, plan, np.zeros(0, np.int64), frozenset(void))


def _rows(both: Pair) -> Iterator[Comparison]:
    """What outcomes alone tell; labels, which confidence in wrong answers would need, lie with the data."""
    threats = [t for t in headline_threats(both.plan) if t.eps is None and t.goal == "misclassify"]
    found = (
        effects.clean(both),
        *effects.robust(both),
        *(effects.smallest(both, threat) for threat in threats),
        effects.ece(both),
        effects.nonsense_above(both),
        effects.dead_units(both),
    )
    return (row for row in found if row is not None)


def _flips(both: Pair) -> Iterator[Flips]:
    sides = {"clean_accuracy": tuple(1 - g.clean_wrong for g in both.sides)}
    for threat in headline_threats(both.plan):
        if threat.eps is not None and (correct := effects.robust_correct(both, threat, ALL)) is not None:
            sides[f"robust_accuracy@{threat}"] = correct
    for metric, (before, after) in sides.items():
        yield Flips(metric, int(np.sum((before > 0.5) & (after < 0.5))), int(np.sum((before < 0.5) & (after > 0.5))))


def _notes(base: Side, new: Side) -> Iterator[str]:
    if base.facts.versions != new.facts.versions:
        yield f"other versions: {base.facts.versions} against {new.facts.versions}"
    extra = [t.attack for t in new.faced if t.role == "adaptive"]
    if extra:
        yield f"only {new.name} faced adaptive attacks: {', '.join(dict.fromkeys(extra))}"


def _threats(side: Side) -> tuple[str, ...]:
    return tuple(map(str, headline_threats(side.plan)))


def _said(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) and len(value) < 12 else str(value)[:60]
