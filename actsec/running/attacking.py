"""One attack of a plan: from a job's recipe to a verdict and an example for each of its rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actsec import goals, losses, registry
from actsec.draws import Draws
from actsec.errors import ModelError, ThreatError
from actsec.forcing import brackets, consequences
from actsec.forcing.aim import Ranked
from actsec.health import tally
from actsec.planning import costs
from actsec.planning.budgets import repeats
from actsec.running import restoring, scene
from actsec.running.scene import Scene
from actsec.running.store import Store
from actsec.search import lowering, masks, proposals, straight_through, surrogates
from actsec.search.ledger import NORMS_KEPT, Verdicts
from actsec.search.lowering import Lowered
from actsec.search.oracle import frozen
from actsec.search.referee import attack_target, cases_of
from actsec.search.tables import constrained
from actsec.spec import parse
from actsec.types import Ask, Cases, Goal, Job, Outcome, Region, Reply, Target, Threat

AMONG = 1000
"""The first test images, on which it is decided what units are constant, for all shards of all attacks alike."""


def attack(job: Job, loaded: Scene, store: Store) -> Outcome:
    """Run the attack of a job on its rows: verdicts, examples, counts. Raises ThreatError, ModelError."""
    target, plan = restoring.ready(loaded, store, job, job.needs[0]), loaded.plan
    spec, threat = parse(scene.located(loaded, str(job.recipe["attack"]))), Threat.parse(str(job.recipe["threat"]))
    built = registry.build("attacks", spec)
    if threat.norm not in built.norms:
        raise ThreatError(
            f"{spec.name} works in {', '.join(built.norms)}, not in {threat.norm}", "Give it a threat of its own norm."
        )
    cases = _cases(job, loaded, target, threat)
    region = threat.region
    if region and (reason := _inapplicable(target, cases.x[:2], region)):
        return Outcome(job.id, {"not_applicable": reason.removeprefix("not applicable: ")})
    name, grid = f"{spec}@{threat}", None if region else loaded.test.grid
    made = proposals.ready(built, target, cases, Draws(plan.seed, name))
    goal, flat = losses.goal_of(threat, made, target.threshold), Flat(cases)
    mended = straight_through.of(made, target)
    passes = costs.attack_passes(made, target.shape) * len(cases)
    lowered = None if mended else _stand_in(job, loaded, target, goal, passes)
    stored = [outcome.arrays for need in job.needs[1:] if (outcome := store.get(need)) is not None]
    verdicts = attack_target(
        surrogates.ready(made, cases, scene.surrogate(loaded, made), stored, plan.seed, plan.memory),
        target,
        cases,
        goal,
        search=lowered.target if lowered and lowered.what else mended,
        seed=plan.seed,
        name=name,
        repeats=repeats(plan.budget, target),
        grid=grid,
        note=flat,
    )
    verdicts = proposals.paid(made, verdicts)
    numbers = {"refused": verdicts.refused, "norms": list(NORMS_KEPT), "rows": len(cases), "flat": flat.rows}
    found = Outcome(job.id, numbers | _searched(lowered), _left(job, loaded, target, cases, verdicts))
    if not region:
        return found
    among = torch.from_numpy(loaded.test.x[:AMONG]).to(target.device)
    return _with_kills(found, target, cases, verdicts, region, getattr(made, "ranked", None), among)


def craft(job: Job, loaded: Scene, store: Store) -> Outcome:
    """Make examples on a surrogate, followed past their first success, for transfer."""
    target, plan = restoring.ready(loaded, store, job, job.needs[0]), loaded.plan
    threat = Threat.parse(str(job.recipe["threat"]))
    x, y, rows = _rows(job, loaded, target)
    cases = cases_of(target, x, y, threat.norm, threat.eps, rows)
    verdicts = surrogates.craft(parse(str(job.recipe["attack"])), target, cases, plan.seed)
    passes = {name: getattr(verdicts, name).cpu().numpy() for name in ("x", "status", "forwards", "backwards")}
    return Outcome(job.id, {"rows": len(x)}, {**passes, "id": rows.cpu().numpy().view(np.uint64)})


def _rows(job: Job, loaded: Scene, target: Target) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, labels and ids of the job's shard, on the target's device."""
    first, last = (int(row) for row in job.recipe["rows"])
    test = loaded.test
    arrays = (test.x, test.y, test.ids.view(np.int64))
    x, y, rows = (torch.from_numpy(array[first:last]).to(target.device) for array in arrays)
    return x, y, rows


def _cases(job: Job, loaded: Scene, target: Target, threat: Threat) -> Cases:
    """The adversaries of the job: the rules of the table, the mask of the plan and the class of the threat hold."""
    x, y, rows = _rows(job, loaded, target)
    cases = constrained(cases_of(target, x, y, threat.norm, threat.eps, rows), loaded.test.table)
    return goals.aimed(masks.applied(cases, loaded.mask), threat, target)


def _stand_in(job: Job, loaded: Scene, target: Target, goal: Goal, passes: int) -> Lowered | None:
    return restoring.stand_in(loaded, target, job.needs[0]) if lowering.worth(goal, passes) else None


def _searched(lowered: Lowered | None) -> dict[str, Any]:
    """What the attack asked in the model's place, for the report."""
    if lowered is None:
        return {}
    kept, left_out = list(lowered.what), list(lowered.left_out)
    return {"search": {"what": kept, "left_out": left_out, "agreement": str(lowered.agreement)}}


def _left(job: Job, loaded: Scene, target: Target, cases: Cases, verdicts: Verdicts) -> dict[str, Any]:
    """The arrays of an outcome, rows first."""
    first, last = (int(row) for row in job.recipe["rows"])
    left = {**_as_arrays(verdicts), "id": loaded.test.ids[first:last]}
    if target.threshold is not None:
        # The referee's logits are shifted so that the largest decides; what is stored is what the model says.
        left["logits"][:, 1] += math.log(target.threshold / (1 - target.threshold))
    if bool((cases.target >= 0).any()):
        left["counted"] = goals.counted(cases).cpu().numpy()
    return left


def _inapplicable(target: Target, x: Tensor, region: Region) -> str:
    """Why units of this model cannot be forced; empty when they can."""
    try:
        return tally.kill_profile(target, x, x, region=region).reason
    except ModelError as problem:  # compiled, scripted, or other calls on other inputs
        return problem.problem


def _with_kills(
    found: Outcome,
    target: Target,
    cases: Cases,
    verdicts: Verdicts,
    region: Region,
    ranked: Ranked | None,
    among: Tensor,
) -> Outcome:
    """The outcome with what died and revived at every site, and what that did to each row.

    Which units are constant is told by ``among``, the same in every shard.
    """
    with frozen(target.model):
        profile = tally.kill_profile(target, cases.x, verdicts.x, region=region, among=among)
    if profile.net is None or profile.killed_of_active is None:
        raise ModelError(profile.reason, "Look for NaN in the weights.")
    numbers = {**found.numbers, "kill": {"sites": profile.sites}}
    arrays = {**found.arrays, "net": profile.net, "killed_of_active": profile.killed_of_active}
    arrays |= consequences.per_row(target, cases, verdicts.x, region, ranked)
    return Outcome(found.job, numbers, arrays)


def bracketed(job: Job, loaded: Scene, store: Store) -> Outcome:
    """What an attack on units left on its first rows, beside certificates and on models with other activations."""
    target, threat = restoring.ready(loaded, store, job, job.needs[0]), Threat.parse(str(job.recipe["threat"]))
    cases, region = _cases(job, loaded, target, threat), threat.region or "dead"
    shards = [outcome for need in job.recipe["attacked"] if (outcome := store.get(need)) is not None]
    if reason := next((str(o.numbers["not_applicable"]) for o in shards if "not_applicable" in o.numbers), ""):
        return Outcome(job.id, {"not_applicable": reason})
    after = torch.from_numpy(np.concatenate([o.arrays["x"] for o in shards])[: len(cases)]).to(target.device)
    held = brackets.bracket(target, cases, after, region)
    passed = []
    for name, model in job.recipe["twins"].items():
        twin = restoring.ready(loaded, store, dataclasses.replace(job, variant=name), model)
        told = consequences.transferred({name: twin}, cases.x, after, cases.y, region)
        passed += [dataclasses.asdict(each) for each in told]
    return Outcome(job.id, {"bracket": dataclasses.asdict(held), "passed": passed})


class Flat:
    """Counts the rows whose cross-entropy was flat at the input, so that the attack climbed the margin instead.

    Listens to the questions of an attack whose loss can tell (``flat``), and passes them on to ``note``.
    """

    def __init__(self, cases: Cases, note: Callable[[Tensor, Ask, Reply], None] | None = None) -> None:
        self.cases, self.note, self.rows = cases, note, 0

    def __call__(self, index: Tensor, ask: Ask, reply: Reply) -> None:
        if (flat := getattr(ask.loss, "flat", None)) is not None:
            asked = slice(None) if ask.wants is None else ask.wants
            self.rows += int(flat(reply.logits[:, 0][asked], self.cases.rows(index[asked])).sum())
        if self.note is not None:
            self.note(index, ask, reply)

    def said(self, before: str = "") -> str:
        """The count in words, after ``before``; empty when there is none."""
        return f"{before}{self.rows} climbed the margin, their cross-entropy being flat" if self.rows else ""


def _as_arrays(verdicts: Verdicts) -> dict[str, Any]:
    fields = {f.name: getattr(verdicts, f.name) for f in dataclasses.fields(verdicts) if f.name != "refused"}
    return {name: tensor.detach().cpu().numpy() for name, tensor in fields.items()}
