"""What each kind of job does. A worker needs a job and a run folder, nothing else.

base     train the reference model, or load the user's: leaves weights
defend   fit a chain of defenses on it: leaves weights
clean    logits on the test and calibration data
probe    direct measurements of the model: gradients, repeatability, activation health
attack   one attack under one threat on some rows: leaves a verdict and an example per row
corrupt  decisions on corrupted images
nonsense confidence on noise, blanks and scrambled images, and far outside the box
bracket  an attack on units beside what no attack can beat, and on models with other activations
certify  radii in L2 within which a smoothed model cannot be fooled, beside what an attack leaves there
fool     how little a blank or noise must change to be taken for each class
craft    the same on a surrogate, followed past its first success: leaves an example per row for transfer
"""

from __future__ import annotations

import dataclasses
import itertools
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actsec import corruptions, models, nonsense, registry, training
from actsec.data.streamed import blocks
from actsec.detecting import DETECTOR
from actsec.draws import Draws
from actsec.errors import ActsecError, ModelError
from actsec.hardening.chains import fit_chain, threads
from actsec.health import tally
from actsec.planning import budgets
from actsec.planning.budgets import REPEATS
from actsec.running import attacking, conduct, probe, restoring, run_scene, scene, timing
from actsec.running.deadline import TimedOut, deadline
from actsec.running.deadline import said as told
from actsec.running.scene import Scene
from actsec.running.store import Store
from actsec.search import certificates
from actsec.search.crafting import last_candidates
from actsec.search.oracle import Oracle, frozen
from actsec.search.referee import cases_of
from actsec.spec import Spec, parse, parse_chain
from actsec.target import fingerprint
from actsec.types import Job, Loss, Material, Outcome, Target, Threat
from actsec.verdict.activity import WATCHED

PROBE_ROWS = 200
HEALTH_ROWS = WATCHED


def run(job: Job, root: Path, loaded: Scene | None = None) -> str | None:
    """Run a job and store its outcome. Returns the message of what ended it, None when all went well.

    loaded is the scene where it is at hand; otherwise it is read from the run folder.
    """
    store, began, used = Store(root), time.perf_counter(), time.process_time()
    try:
        loaded = loaded or run_scene.of_run(root)
        outcome = _outcome(job, loaded, store)
    except TimedOut:
        outcome = Outcome(job.id, {}, error=told(loaded.plan.timeout if loaded else None))
    except ActsecError as problem:
        outcome = Outcome(job.id, {}, error=str(problem))
    except Exception as problem:  # noqa: BLE001  # whatever a stranger's model raises is a finding, never a lost run
        last = traceback.extract_tb(problem.__traceback__)[-1]
        outcome = Outcome(
            job.id, {}, error=f"{type(problem).__name__}: {problem} ({Path(last.filename).name}:{last.lineno})"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cost = {
        "kind": job.kind,
        "label": job.label,
        "seconds": round(time.perf_counter() - began, 3),
        "cpu_seconds": round(time.process_time() - used, 3),
        "peak_mib": round(peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)),
    }
    if "forwards" in outcome.arrays:
        cost["passes"] = int(outcome.arrays["forwards"].sum() + 2 * outcome.arrays["backwards"].sum())
    if job.kind in _TIMED and outcome.error is None and loaded is not None:
        cost |= _timed(job, loaded, store, outcome)
    try:
        store.put(outcome, cost)
    except ValueError:
        outcome = Outcome(job.id, {}, error="the job's numbers are not finite: look for NaN in the weights")
        store.put(outcome, cost)
    if outcome.error is None:
        store.forget_training(job.id)
    return outcome.error


def _outcome(job: Job, loaded: Scene, store: Store) -> Outcome:
    """What the job leaves, watched for what its model does beside answering."""
    count = loaded.plan.threads
    with conduct.seeded(job.id) as drawn, deadline(loaded.plan.timeout), threads(count):
        if job.kind in _TIMED:  # training changes weights
            outcome = _KINDS[job.kind](job, loaded, store)
        else:
            with conduct.unchanged(count):
                outcome = _KINDS[job.kind](job, loaded, store)
    return dataclasses.replace(outcome, numbers={**outcome.numbers, "drawn_from": drawn}) if drawn else outcome


def _timed(job: Job, loaded: Scene, store: Store, outcome: Outcome) -> dict[str, Any]:
    """Times of a model that was just made. What cannot be timed is not measured, and no reason to lose the model."""
    try:
        with conduct.seeded(job.id), deadline(loaded.plan.timeout), threads(loaded.plan.threads):
            return {"variant": job.variant, **_TIMED[job.kind](job, loaded, store, outcome)}
    except (Exception, TimedOut) as problem:  # noqa: BLE001  # a stranger's model raises what it likes
        return {"variant": job.variant, "untimed": f"{type(problem).__name__}: {problem}"}


def _pass_time(job: Job, loaded: Scene, _store: Store, outcome: Outcome) -> dict[str, float]:
    target = restoring.restored(loaded, loaded.variant(job.variant), outcome)
    x, y = (torch.from_numpy(a[: timing.ROWS]).to(target.device) for a in (loaded.test.x, loaded.test.y))
    return {"seconds_per_pass": timing.seconds_per_pass(target, x, y)}


def _latency(job: Job, loaded: Scene, store: Store, outcome: Outcome) -> dict[str, float]:
    before = store.get(job.needs[0])
    if before is None:
        return {}
    base = restoring.restored(loaded, loaded.variant(_base_name(loaded)), before)
    other = restoring.restored(loaded, loaded.variant(job.variant), outcome)
    x = torch.from_numpy(loaded.test.x[: timing.ROWS]).to(base.device)
    return {"latency_ratio": timing.latency_ratio(base, other, x)}


def _base(job: Job, loaded: Scene, store: Store) -> Outcome:
    plan = loaded.plan
    target = restoring.base_target(loaded, loaded.variant(job.variant))
    numbers: dict[str, Any] = {"stochastic": target.stochastic, "threshold": target.threshold}
    if plan.reference:
        data = scene.as_split(loaded.splits.train, plan.device)
        if data is None:
            raise ModelError("a reference model is trained in the run, but there is no training data", "Give --train.")
        recipe = training.Recipe(seed=plan.seed)
        history = training.fit(target.model, data.x, data.y, recipe, ids=data.id, checkpoint=store.training(job.id, 0))
        numbers |= {"training": dataclasses.asdict(history), "recipe": dataclasses.asdict(recipe)}
        numbers["architecture"] = str(models.canonical(loaded.variant(job.variant).base))
    else:
        if fingerprint(target) != job.recipe["model"]:
            raise ModelError(
                "the model changed since the run began",
                "Give another --out, put the model back, or mend a forward pass that changes weights.",
            )
        numbers["stochastic"] = target.stochastic or _draws_differ(target, loaded)
    return Outcome(job.id, numbers, {"weights": restoring.pack(target)})


def _draws_differ(target: Target, loaded: Scene) -> bool:
    x = torch.from_numpy(loaded.test.x[:32]).to(target.device)
    with frozen(target.model), torch.no_grad():
        first, second = target.logits(x), target.logits(x)
    return not torch.equal(first, second)


def _defend(job: Job, loaded: Scene, store: Store) -> Outcome:
    plan, variant = loaded.plan, loaded.variant(job.variant)
    target = restoring.ready(loaded, store, dataclasses.replace(job, variant=_base_name(loaded)), job.needs[0])
    material = Material(
        scene.as_split(loaded.splits.calibration, plan.device),
        scene.as_split(loaded.splits.train, plan.device),
        plan.seed,
        perturb,
        _silent,
    )
    specs = parse_chain(str(job.recipe["chain"]))
    chain = [registry.build("defenses", spec) for spec in specs]
    target, fits, _ = fit_chain(target, chain, material, checkpoint=lambda number: store.training(job.id, number))
    named, said = zip(specs, fits, strict=True), f"{DETECTOR[0].upper()}{DETECTOR[1:]}."
    numbers: dict[str, Any] = {
        "fit": {str(registry.brief("defenses", spec)): dict(fitted.numbers) for spec, fitted in named},
        "notes": [*(note for fitted in fits for note in fitted.notes), *([said] if target.rejects is not None else [])],
        "stochastic": target.stochastic,
        "threshold": target.threshold,
    }
    return Outcome(job.id, numbers, {"weights": restoring.pack(target.having(name=variant.name))})


def _silent(_text: str, _done: int, _total: int) -> None:
    """Workers report by finishing; the parent draws the progress."""


def _base_name(loaded: Scene) -> str:
    from actsec.planning.jobs import variants

    return variants(loaded.plan)[0].name


def perturb(
    target: Target,
    x: Tensor,
    y: Tensor,
    id: Tensor,
    attack: Spec,
    threat: Threat,
    seed: int,
    loss: Loss | None = None,
) -> Tensor:
    """Adversarial inputs (n, *shape) for training: where the attack ends, as in Madry et al. (2017).

    With a loss it climbs that one, whatever its own is.
    """
    made = registry.trainer(attack)
    cases = cases_of(target, x, y, threat.norm, threat.eps, id)
    return last_candidates(made, target, cases, Draws(seed, str(attack)), loss=loss)


def _clean(job: Job, loaded: Scene, store: Store) -> Outcome:
    target = restoring.ready(loaded, store, job, job.needs[0])
    arrays, numbers = {}, {}
    repeats = REPEATS[loaded.plan.budget] if target.stochastic else 1
    for name, dataset in (("test", loaded.test), ("calibration", loaded.splits.calibration)):
        if dataset is None:
            continue
        kept, rejections, labels, silent = [], [], [], 0
        with frozen(target.model):
            oracle = Oracle(target.having(threshold=None), 0, repeats, loaded.plan.seed, f"clean {name}")
            for x in scene.calls(dataset, oracle):
                decisions, refused = oracle.decided(torch.from_numpy(x).to(target.device))
                logits = decisions.double().cpu()
                kept.append(logits[0].float() if repeats == 1 else _mean_log(logits).float())
                silent += int((~torch.isfinite(logits).all(-1)).any(0).sum())
                labels.append(target.decide(decisions).cpu())
                rejections.append(refused.cpu())
        refused = torch.cat(rejections, 1)
        mistaken = (torch.cat(labels, 1) != torch.from_numpy(dataset.y)) | refused
        arrays[f"{name}_logits"] = torch.cat(kept).numpy()
        arrays[f"{name}_wrong"] = mistaken.double().mean(0).float().numpy()
        if target.rejects is not None:
            arrays[f"{name}_rejected"] = refused.double().mean(0).float().numpy()
        if silent:
            numbers[f"{name}_non_finite"] = silent
    numbers["parameters"] = sum(p.numel() for p in target.model.parameters())
    return Outcome(job.id, numbers, arrays)


def _mean_log(logits: Tensor) -> Tensor:
    """Log of the mean probability over draws: the confidence a stochastic target shows on average."""
    return torch.log_softmax(logits, -1).logsumexp(0) - float(np.log(len(logits)))


def _probe(job: Job, loaded: Scene, store: Store) -> Outcome:
    target, test, plan = restoring.ready(loaded, store, job, job.needs[0]), loaded.test, loaded.plan
    x, y = (torch.from_numpy(a[:HEALTH_ROWS]).to(target.device) for a in (test.x, test.y))
    with frozen(target.model):
        numbers: dict[str, Any] = {
            "probe": probe.probe(target, x[:PROBE_ROWS], y[:PROBE_ROWS], plan.eps or 0.1, "linf", plan.seed),
            "sites": [],
        }
        dead = None
        try:
            seen = tally.observed(target, x, y)
            numbers["sites"], dead = seen.sites, tally.dead_share(target, x)
            numbers["unresolved"] = [f"{item.name}: {item.reason}" for item in seen.unresolved]
        except ModelError as problem:  # compiled or scripted: the rest of the audit stands all the same
            numbers["unresolved"] = [f"the model: {problem.problem}"]
    return Outcome(job.id, numbers, {} if dead is None else {"dead": dead})


def _corrupt(job: Job, loaded: Scene, store: Store) -> Outcome:
    target, test = restoring.ready(loaded, store, job, job.needs[0]), loaded.test
    first, last = (int(row) for row in job.recipe["rows"])
    x, rows = (torch.from_numpy(a[first:last]).to(target.device) for a in (test.x, test.ids.view(np.int64)))
    y = torch.from_numpy(test.y[first:last])
    repeats = REPEATS[loaded.plan.budget] if target.stochastic else 1
    wrong = []
    for text in job.recipe["corruptions"]:
        ((kind, severity),) = corruptions.parsed(text)
        made = corruptions.corrupt(x, rows, kind, severity, bounds=test.bounds, seed=loaded.plan.seed)
        with frozen(target.model):
            decisions, refused = Oracle(target, 0, repeats, loaded.plan.seed, text).decided(made)
        mistaken = (decisions.argmax(-1).cpu() != y) | refused.cpu()
        wrong.append(mistaken.double().mean(0).float().numpy())
    return Outcome(job.id, {"rows": last - first}, {"wrong": np.stack(wrong)})


def _nonsense(job: Job, loaded: Scene, store: Store) -> Outcome:
    target, test, seed = restoring.ready(loaded, store, job, job.needs[0]), loaded.test, loaded.plan.seed
    repeats = budgets.repeats(loaded.plan.budget, target)
    x, rows = (torch.from_numpy(a[: nonsense.ROWS]).to(target.device) for a in (test.x, test.ids.view(np.int64)))
    read = itertools.islice(blocks(test.x, nonsense.AT_ONCE), nonsense.STATISTICS // nonsense.AT_ONCE)
    like = nonsense.moments(torch.from_numpy(piece).to(target.device) for piece in read)
    found = nonsense.measure(target, x, rows, seed=seed, repeats=repeats, like=like)
    rays = nonsense.far(target, seed)
    away = {f"far_{name}": getattr(rays, name) for name in ("confidence", "label", "limit")}
    numbers = {"kinds": list(nonsense.KINDS), "alphas": list(nonsense.ALPHAS), "precision": rays.precision}
    fields = (field.name for field in dataclasses.fields(found))
    return Outcome(job.id, numbers, {name: getattr(found, name) for name in fields} | away)


def _fool(job: Job, loaded: Scene, store: Store) -> Outcome:
    target, plan = restoring.ready(loaded, store, job, job.needs[0]), loaded.plan
    attack, repeats = nonsense.FOOLING[plan.budget], budgets.repeats(plan.budget, target)
    found = nonsense.fool(target, attack=attack, seed=plan.seed, repeats=repeats)
    width = target.bounds[1] - target.bounds[0]
    numbers = {
        "starts": list(nonsense.STARTS),
        "attack": attack,
        "sure": nonsense.SURE,
        "eps": [e * width for e in nonsense.FOOLING_EPS],
    }
    return Outcome(job.id, numbers, {field.name: getattr(found, field.name) for field in dataclasses.fields(found)})


def _certify(job: Job, loaded: Scene, store: Store) -> Outcome:
    target, test, told = restoring.ready(loaded, store, job, job.needs[0]), loaded.test, job.recipe
    voter = certificates.voter_of(target)
    if voter is None:
        reason = "a defense after smoothing may change its decision: put smoothing behind it"
        return Outcome(job.id, {"not_applicable": reason})
    first, last = (int(row) for row in told["rows"])
    arrays = (test.x, test.y, test.ids.view(np.int64))
    x, y, rows = (torch.from_numpy(array[first:last]).to(target.device) for array in arrays)
    n, seed, attack = int(told["n"]), loaded.plan.seed, parse(str(told["attack"]))
    made = certificates.certify(target, x, rows, n0=int(told["n0"]), n=n, alpha=float(told["alpha"]), seed=seed)
    held = certificates.left(target, x, y, rows, told["radii"], attack=attack, n=n, seed=seed)
    found = {"label": made.label, "votes": made.votes, "lower": made.lower, "radius": made.radius, "held": held.T}
    numbers = {"votes": target.draws, "std": voter.std}
    return Outcome(job.id, numbers, {name: tensor.numpy() for name, tensor in found.items()})


_KINDS: dict[str, Callable[[Job, Scene, Store], Outcome]] = {
    "base": _base,
    "defend": _defend,
    "clean": _clean,
    "probe": _probe,
    "attack": attacking.attack,
    "craft": attacking.craft,
    "corrupt": _corrupt,
    "nonsense": _nonsense,
    "fool": _fool,
    "certify": _certify,
    "bracket": attacking.bracketed,
}
_TIMED: dict[str, Callable[[Job, Scene, Store, Outcome], dict[str, float]]] = {"base": _pass_time, "defend": _latency}
