"""How long the trainings of a plan would take here, before any is begun: a few of their own steps are made and timed.

Passes are counted on a toy (see pricing), since they do not depend on the model; what a pass costs is measured on the
model itself: one epoch of each training over a few batches of its own data, inner attack, guard and update together. A
model so slow that this would take longer than TRIAL seconds is asked for one plain update instead, whose passes cost
much the same where the arithmetic is what takes the time. Nothing that is made here is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from actsec import registry
from actsec.detecting import behind
from actsec.hardening.chains import threads
from actsec.planning import costs, pricing
from actsec.planning.jobs import VariantPlan, variants
from actsec.running import restoring, scene, timing
from actsec.running.conduct import seeded
from actsec.running.preparing import FIRST_SIGHT, Prepared
from actsec.running.tasks import perturb
from actsec.spec import Spec
from actsec.training.recipe import Recipe
from actsec.types import Material, Split, Target

TRIAL = 5.0
"""Seconds that the trial of one training may take."""
FEWEST, MOST = 64, 256
"""Rows of a trial: a batch of the usual size, and four."""


@dataclass(frozen=True, slots=True)
class Training:
    """A training of a plan: its variant, the passes of one image that it takes (a backward counts two), its seconds."""

    variant: str
    passes: int
    seconds: float


def trainings(prepared: Prepared) -> tuple[Training, ...]:
    """The trainings of a plan, each with what it would take; those whose passes nobody can count are left out.

    Raises what fitting a defense raises: it would raise the same after hours.
    """
    loaded, plan = prepared.scene, prepared.plan
    train = scene.as_split(loaded.splits.train, plan.device)
    found: list[Training] = []
    if train is None:
        return ()
    with threads(plan.threads), seeded(FIRST_SIGHT):
        for variant in variants(plan):
            if plan.reference and not variant.chain:
                base = restoring.base_target(loaded, variant)
                passes = 3 * Recipe().epochs * len(train.y)
                found.append(Training(variant.name, passes, passes * _plain(base, train)))
            elif variant.chain:
                found += _chain(loaded, variant, train)
    return tuple(found)


def lines(found: tuple[Training, ...]) -> Iterator[str]:
    """The same in words; nothing where nothing is trained."""
    if not found:
        return
    yield "training, foretold from a few steps of each on this machine, one at a time:"
    yield from (f"  {t.variant}: about {costs.words(t.seconds)} ({t.passes:,} passes of one image)" for t in found)
    if len(found) > 1:
        yield f"  together about {costs.words(sum(t.seconds for t in found))}"


def _chain(loaded: scene.Scene, variant: VariantPlan, train: Split) -> list[Training]:
    target, passes, seconds = restoring.base_target(loaded, variant), 0, 0.0
    for spec in variant.chain:
        takes = pricing.price(spec, len(train.y))
        if takes is None:
            return []
        if takes:
            passes, seconds = passes + takes, seconds + takes * per_pass(loaded, target, spec, train)
        target = behind(target, registry.build("defenses", spec))
    return [Training(variant.name, passes, seconds)] if passes else []


def per_pass(loaded: scene.Scene, target: Target, spec: Spec, train: Split) -> float:
    """Seconds that a pass of one image takes in this training on a target: of one epoch over a few of its rows."""
    defense: Any = registry.build("defenses", spec)
    plain = _plain(target, train)
    option = next((name for name in ("epochs", "finetune") if getattr(defense, name, 0)), None)
    once = defense if option is None else dataclasses.replace(defense, **{option: 1})
    each = (pricing.price(spec.having(**{option: 1}) if option else spec, len(train.y)) or 0) / len(train.y)
    rows = min(MOST, len(train.y), int(TRIAL / (plain * each)) if each else MOST)
    if rows < min(FEWEST, len(train.y)):
        return plain
    calibration = scene.as_split(loaded.splits.calibration, loaded.plan.device)
    took, counted = 0.0, 0
    # The first, of one batch, warms up and does not count.
    for n in (min(rows, FEWEST), rows):
        few = Split(train.x[:n], train.y[:n], train.id[:n])
        material = Material(calibration, few, loaded.plan.seed, perturb, lambda _text, _done, _total: None)
        made, clock = behind(target, once), timing.clock()
        began = clock()
        numbers = once.fit(made, material).numbers
        took, counted = clock() - began, int(numbers["forwards"]) + 2 * int(numbers["backwards"])
    return took / counted if counted else plain


def _plain(target: Target, train: Split) -> float:
    return timing.seconds_per_pass(target, train.x[: timing.ROWS], train.y[: timing.ROWS])
