"""Before the first job: the model is checked, the plan completed, the jobs listed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from actsec import goals
from actsec.errors import DataError, ModelError, NoVerdict, PlanError, unknown
from actsec.planning import budgets, resolving
from actsec.planning.jobs import headline_threats, jobs, variants
from actsec.planning.parts import Part
from actsec.planning.plan import Facts, Plan
from actsec.running import restoring, scene
from actsec.running.deadline import TimedOut, deadline, said
from actsec.running.scene import Given, Scene
from actsec.search import attributes, tables
from actsec.spec import parse_chain
from actsec.types import Job, Target, Threat
from actsec.verdict import acceptance
from actsec.verdict.gates import check_classes, check_gates


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan ready to run: resolved, its data loaded, its names hashed. notes come from the preflight checks.

    part, where there is one, is what of the plan's jobs is run here.
    """

    scene: Scene
    facts: Facts
    notes: tuple[str, ...]
    part: Part | None = None

    @property
    def plan(self) -> Plan:
        return self.scene.plan

    @property
    def jobs(self) -> tuple[Job, ...]:
        every = jobs(self.plan, self.facts)
        return every if self.part is None else self.part.jobs(every)


FIRST_SIGHT = "0" * 24
"""What global generators are seeded by where a model is asked outside of any job."""


def prepare(plan: Plan, given: Given | None = None) -> Prepared:
    """Load data and model, look at both before any work is done, and fill the plan's gaps.

    Raises every usage error there is (exit 2), Unsafe (4), and NoVerdict (3) when the model cannot be audited as it is.
    """
    from actsec.hardening.chains import threads
    from actsec.running.conduct import seeded

    loaded = resolved(scene.load(plan, given))
    check_gates(loaded.plan, headline_threats(loaded.plan), [v.name for v in variants(loaded.plan)])
    acceptance.check(plan)
    base, notes = None, loaded.notes
    if plan.reference:
        for variant in variants(loaded.plan):
            restoring.base_target(loaded, variant)
    else:
        try:
            with deadline(loaded.plan.timeout), threads(loaded.plan.threads), seeded(FIRST_SIGHT):
                base, checked = look(loaded)
        except TimedOut:
            raise NoVerdict(f"looking at {plan.model}: {said(loaded.plan.timeout)}") from None
        notes += checked
        loaded, left = fitting(loaded, base, chosen=plan.defenses is not None)
        notes += left
        given = dataclasses.replace(loaded.given, target=base if loaded.given.target else None)
        loaded = dataclasses.replace(loaded, splits=scene.with_classes(loaded.splits, base.classes), given=given)
    if plan.positive is not None and plan.positive not in loaded.test.classes:
        raise unknown("class (--positive)", plan.positive, loaded.test.classes)
    check_classes(loaded.plan, loaded.test.classes)
    for trial in loaded.plan.attacks:
        test = loaded.test
        goals.check(Threat.parse(trial.threat), tuple(test.x.shape[1:]), test.bounds, len(test.classes))
    return Prepared(loaded, scene.facts(loaded, base), notes)


def fitting(loaded: Scene, base: Target, *, chosen: bool) -> tuple[Scene, tuple[str, ...]]:
    """The scene with the defenses that can be put on this model, and what is left out.

    Raises ModelError for one that was chosen: that is a mistake of the plan. Those that a plan has when nobody chose,
    such as a swap on a model without activations, or one that is compiled, are left out with a note.
    """
    kept, notes = [], []
    for text in loaded.plan.defenses or ():
        try:
            with attributes.untouched(base.model):
                restoring.wrapped(base, parse_chain(text))
            kept.append(text)
        except ModelError as problem:
            if chosen:
                raise
            notes.append(f"{text} is left out: {problem.problem}")
    return dataclasses.replace(loaded, plan=loaded.plan.having(defenses=tuple(kept))), tuple(notes)


def resolved(loaded: Scene) -> Scene:
    """The scene with every gap of its plan filled."""
    plan, splits = loaded.plan, loaded.splits
    if not len(splits.test):
        raise DataError(f"{plan.data} holds no examples", "Give test data.")
    if plan.reference and splits.train is None:
        raise PlanError(f"{plan.model} is trained in the run, but there is no training data", "Give --train data.npz.")
    filled = resolving.resolve(
        plan,
        budgets.Images(
            tuple(splits.test.x.shape[1:]),
            splits.test.grid,
            len(splits.test),
            splits.test.bounds,
            table=splits.test.table is not None,
        ),
        trains=splits.train is not None,
        calibrates=splits.calibration is not None,
    )
    return dataclasses.replace(loaded, plan=filled)


def look(loaded: Scene) -> tuple[Target, tuple[str, ...]]:
    """The user's model after the preflight checks, which raise UsageError or NoVerdict, and what they found."""
    from actsec.running.preflight import preflight

    base = restoring.base_target(loaded, variants(loaded.plan)[0])
    others = None if loaded.test.table is None else tables.other_units(base, loaded.test.table)
    expected = loaded.plan.expect_accuracy
    with attributes.untouched(base.model):  # jobs load it afresh, and must know it by its fingerprint
        found = preflight(base, loaded.test.x, loaded.test.y, expect_accuracy=expected, other_normalizations=others)
    return found.target, found.notes
