"""Activation health without an attack: dead, saturated, vanishing, overconfident. What ``actsec diagnose`` measures.

dead              units whose activation passes no signal; permanently: on every image looked at
saturated         units in a tail where the slope is below 5 % of its largest
vanishing         G = |dL/dW_first| / |dL/dW_last| of the cross-entropy in eval mode, the median over batches of 32;
                  below 1e-3 the first layer learns nothing, above 1e3 gradients explode; also with fresh weights
gradients         by the input: exactly 0, their size, whether the loss is straight
overconfident     ECE beside what a perfectly calibrated model would show at this n; confidence on wrong answers
causes            of dead and saturated units, by rule (verdict.causes)

Cost: a forward and a backward a row for the sites and what vital_signs says, 1 forward a test image; the record states
it. The model is left as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from actsec.activations import find
from actsec.describing import fingerprint
from actsec.errors import Guessing
from actsec.hardening import making
from actsec.hardening.chains import threads
from actsec.hardening.making import measure
from actsec.health import tally
from actsec.health.architecture import Architecture
from actsec.health.flow import BATCH, MOST, gradients
from actsec.health.seen import Seen
from actsec.health.vital_signs import LARGE, counting, vital_signs
from actsec.health.wiring import wiring
from actsec.planning.jobs import variants
from actsec.planning.plan import Plan
from actsec.result import Problem, SiteHealth
from actsec.running import restoring
from actsec.running.scene import Scene
from actsec.search.oracle import filling, frozen, kept_by_row
from actsec.target import settle
from actsec.types import Target
from actsec.verdict import statistics
from actsec.verdict.activity import (
    WATCHED,
    Checkup,
    Measured,
    check_gates,
    decide,
    exit_code,
    findings,
    lint,
    worst_first,
)

ROWS = WATCHED
UNRESOLVED = "unresolved_sites"
"""The lint that a checkup leaves to ACT-A02, which says the same of the sites it watched."""


def whole(plan: Plan) -> Plan:
    """The plan of a checkup: nothing is fitted, so no test data is set aside for calibration."""
    kept = plan.data if plan.calibration is None and Path(plan.data).exists() else plan.calibration
    return plan.having(calibration=kept, defenses=(), gates=(), samples=ROWS if plan.samples is None else plan.samples)


def examine(target: Target, loaded: Scene, gates: Sequence[str] = (), before: tuple[Problem, ...] = ()) -> Checkup:
    """Look at a target on the first images of the plan's sample, and measure its confidence on all test data.

    ``before`` are findings that are known already.
    Raises PlanError or UnknownName for a gate that cannot be read.
    """
    plan, test = loaded.plan, loaded.test
    check_gates(gates)
    rows = min(plan.samples or ROWS, len(test))
    x, y = (torch.from_numpy(a[:rows]).to(target.device) for a in (test.x, test.y))
    with threads(plan.threads):
        with counting(target.model) as passes:
            each = kept_by_row(target, x[:1])
            narrow = target.having(batch=filling(min(target.batch, plan.memory * (1 << 20) // (2 * each))))
            watched = tally.observed(narrow, x, y)
            sites = tuple(SiteHealth(**site) for site in watched.sites)
            layers, ratio = gradients(narrow, x, y)
            measured = measure(target, test, plan)
        train = loaded.splits.train
        vitals = vital_signs(narrow, x, y, (layers, ratio), train, plan.seed, large=each > LARGE)
        vitals = dataclasses.replace(
            vitals,
            forwards=vitals.forwards + passes[0],
            backwards=vitals.backwards + rows + min(rows, BATCH * MOST),
        )
        with frozen(target.model):
            found = find(target.model, x[:2] if target.normalization is None else target.normalization(x[:2]))
    right = (measured.labels.cpu() == torch.from_numpy(test.y)).numpy()
    # A model that draws is as accurate as its draws are on average.
    clean = dataclasses.replace(statistics.clean(right, test.y, test.classes), accuracy=measured.accuracy)
    kinds = [site.kind for site in sites]
    left_out = [site.role if site.role != "activation" else "constant" for site in found if site not in found.active]
    unresolved = tuple(f"{item.name or 'the model'}: {item.reason}" for item in watched.unresolved)
    steep = frozenset(site.name for site in found.active if site.activation.properties.saturated_above is not None)
    seen = Seen(sites, steep, unresolved, ratio, measured.accuracy, measured.calibration, rows, vitals)
    problems = findings(seen)
    problems = worst_first(
        (*before, *problems, *lint(architecture(target, loaded, fresh=False), without=(UNRESOLVED,)))
    )
    numbers = Measured(sites, clean, (measured.calibration,), ratio)
    decided = tuple(decide(text, numbers) for text in gates)
    return Checkup(
        model=target.name,
        data=test.name,
        n=rows,
        activations={kind: kinds.count(kind) for kind in sorted(set(kinds))},
        parameters=sum(p.numel() for p in target.model.parameters()),
        fingerprint=fingerprint(target),
        clean=clean,
        calibration=measured.calibration,
        sites=sites,
        unresolved=unresolved,
        left_out={role: left_out.count(role) for role in sorted(set(left_out))},
        layers=layers,
        gradient_ratio=ratio,
        findings=problems,
        gates=decided,
        exit_code=exit_code(problems, decided),
        vitals=vitals,
    )


def subject(loaded: Scene) -> tuple[Target, tuple[str, ...], Problem | None]:
    """The plan's first model, notes of the preflight checks, and the finding that it answers no better than chance.

    Such a model has nothing to attack and is let through, for a checkup is what it needs. Raises as the checks do.
    """
    try:
        return *making.base_of(loaded, lambda _: None), None
    except Guessing as refused:
        target = restoring.base_target(loaded, variants(loaded.plan)[0])
        found = Problem("ACT-M00", "high", "", refused.problem, refused.mend, "see the findings beside it", "")
        return settle(target, torch.from_numpy(loaded.test.x[:1])), (), found


def untrained(loaded: Scene) -> tuple[Architecture, tuple[Problem, ...]]:
    """The plan's first model as it is built, and every lint's findings. With weights given, they are what is seen."""
    target = restoring.base_target(loaded, variants(loaded.plan)[0])
    network = architecture(target, loaded, fresh=loaded.plan.weights is None)
    return network, lint(network)


def architecture(target: Target, loaded: Scene, *, fresh: bool) -> Architecture:
    """How a target is wired, shown by the first images. Labels that the data only counts are as many as it says."""
    test = loaded.test
    network = wiring(target, torch.from_numpy(test.x[:BATCH]).to(target.device), fresh=fresh, classes=len(test.classes))
    counted = test.classes == tuple(map(str, range(len(test.classes))))
    if counted and network.outputs > len(test.classes):
        return dataclasses.replace(network, classes=network.outputs)
    return network
