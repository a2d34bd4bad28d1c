"""The audit: check, plan, run what is not done, assemble, report.

Nothing finished is lost: each job's outcome is stored the moment it ends, and a run is taken up again by running the
jobs that have none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import platform
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actsec import goals, registry
from actsec.errors import DataError, Interrupted, ModelError, NoVerdict, PlanError, unknown
from actsec.planning import budgets, costs
from actsec.planning.parts import Part
from actsec.planning.plan import Facts, Plan, headline_threats, jobs, plan_id, variants
from actsec.result import Result
from actsec.running import scene
from actsec.running.agenda import Agenda
from actsec.running.deadline import TimedOut, deadline, said
from actsec.running.executors import Executor, Processes, Serial
from actsec.running.scene import Given, Scene
from actsec.running.store import Store
from actsec.search import tables
from actsec.spec import parse_chain
from actsec.types import Job, Outcome, Target, Threat
from actsec.verdict import acceptance
from actsec.verdict.gates import check_classes, check_gates

if TYPE_CHECKING:
    from actsec.reports.load import Report


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


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands. left is the estimated seconds, None before some of the work is done; note is for people."""

    done: int
    total: int
    label: str
    left: float | None
    error: str | None = None
    note: str = ""


Tell = Callable[[Progress], None]

FIRST_SIGHT = "0" * 24
"""What global generators are seeded by where a model is asked outside of any job."""
FORETELLS = 0.02
"""The share of the work that must be done before the time left is told."""
LOST = "a worker died; the jobs it had are tried again, one at a time"
DAMAGED = "measured again, for their outcomes are not whole (cut short, changed or deleted)"
STOPPING = "stopping: running jobs are finished first (Ctrl-C again ends them at once)"


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
            scene.base_target(loaded, variant)
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
            scene.wrapped(base, parse_chain(text))
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
    filled = budgets.resolve(
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

    base = scene.base_target(loaded, variants(loaded.plan)[0])
    others = None if loaded.test.table is None else tables.other_units(base, loaded.test.table)
    expected = loaded.plan.expect_accuracy
    found = preflight(base, loaded.test.x, loaded.test.y, expect_accuracy=expected, other_normalizations=others)
    return found.target, found.notes


def execute(prepared: Prepared, store: Store, executor: Executor, tell: Tell) -> dict[str, str]:
    """Run every job without an outcome; the errors by job id.

    Raises Interrupted on Ctrl-C and SIGTERM, once what was running has finished and is stored; a second one ends that.
    """
    every = prepared.jobs
    finished = {job.id for job in every if store.done(job.id)}
    waiting = [job for job in every if job.id not in finished]
    clock, errors, running, lost = _Clock(prepared, waiting), {}, 0, 0
    damaged = [f"{job.label} ({job.id})" for job in waiting if store.damaged(job.id)]
    tell(Progress(len(finished), len(every), "", None, note=f"{DAMAGED}: {', '.join(damaged)}" if damaged else ""))

    def stopping() -> None:
        tell(Progress(len(finished), len(every), STOPPING, None, note=STOPPING))

    agenda = Agenda(waiting, finished)
    with _stoppable(executor, stopping) as stopped:
        try:
            while agenda or running:
                _heed(stopped)
                ready = agenda.take()
                for job in ready:
                    executor.submit(job)
                running += len(ready)
                job, error = executor.next()
                running -= 1
                if error is None:
                    finished.add(job.id)
                    agenda.finished(job.id)
                else:
                    errors[job.id] = error
                    _keep(store, job, error)
                    agenda.failed(job.id)
                clock.finished(job)
                note = LOST if executor.lost > lost else ""
                lost = executor.lost
                done = len(every) - len(agenda) - running
                tell(Progress(done, len(every), job.label, clock.left(), error, note))
        except KeyboardInterrupt:
            _stop(executor, stopping)
            raise Interrupted("every finished job is stored", f"To go on: actsec resume {store.root}") from None
        except BaseException:
            executor.close(kill=True)
            raise
    executor.close()
    return errors


def _heed(stopped: list[int]) -> None:
    """End the loop between two jobs, as a signal does that need not wait for one."""
    if stopped:
        raise KeyboardInterrupt


def _keep(store: Store, job: Job, error: str) -> None:
    """Store the error of a job whose worker could not: it died, or had to be killed."""
    if store.get(job.id) is None:
        cost = {"kind": job.kind, "label": job.label, "seconds": 0.0, "peak_mib": 0}
        store.put(Outcome(job.id, {}, error=error), cost)


def _stop(executor: Executor, stopping: Callable[[], None]) -> None:
    """Let running jobs finish; a second Ctrl-C ends them at once, and may come while the first is answered."""
    try:
        if not executor.here:
            stopping()
        executor.close()
    except KeyboardInterrupt:
        executor.close(kill=True)


class _Clock:
    """Time left, from how long jobs of each kind took per unit of estimated work."""

    def __init__(self, prepared: Prepared, waiting: list[Job]) -> None:
        self.work = {job.id: estimate(prepared, job) for job in waiting}
        self.left_by_kind: dict[str, float] = {}
        for job in waiting:
            self.left_by_kind[job.kind] = self.left_by_kind.get(job.kind, 0.0) + self.work[job.id]
        self.all_work = sum(self.left_by_kind.values())
        self.began = time.monotonic()

    def finished(self, job: Job) -> None:
        self.left_by_kind[job.kind] -= self.work[job.id]

    def left(self) -> float | None:
        remaining = sum(self.left_by_kind.values())
        done = self.all_work - remaining
        # The first jobs are over in no time and are not made of passes: what they took says little of the others.
        enough = done > 0 and (done >= FORETELLS * self.all_work or remaining == 0)
        return (time.monotonic() - self.began) * remaining / done if enough else None


def estimate(prepared: Prepared, job: Job) -> float:
    """Rough work of a job in passes of one image, for the time left: at most, since attacks settle earlier.

    Trainings are counted as their price says (see pricing), on a toy and once in a process.
    """
    from actsec import registry
    from actsec.planning import pricing
    from actsec.planning.budgets import REPEATS
    from actsec.spec import parse
    from actsec.training.recipe import Recipe

    data = prepared.scene.splits
    trained = len(data.train) if data.train is not None else 0
    if job.kind == "defend":
        chain = parse_chain(str(job.recipe["chain"]))
        return 1000.0 + sum(pricing.price(spec, trained) or 0 for spec in chain if trained)
    if job.kind not in ("attack", "craft"):
        return {
            "base": 3.0 * Recipe().epochs * trained if prepared.plan.reference else 100.0,
            "clean": 1.0 * len(data.test),
            "corrupt": 1.0 * len(job.recipe.get("corruptions", ())) * len(data.test),
            "nonsense": 1500.0,
            "fool": 10_000.0,
            "certify": 20.0 * float(job.recipe.get("n", 0)) * len(job.recipe.get("radii", ())),
            "bracket": 1500.0,
            "probe": 4000.0 + 5.0 * len(data.test),
        }[job.kind]
    attack = registry.build("attacks", parse(str(job.recipe["attack"])))
    first, last = job.recipe["rows"]
    randomised = any(name in job.variant for name in ("noisy_inference", "smoothing"))
    draws = REPEATS[prepared.plan.budget] if randomised else 1
    return float((last - first) * costs.attack_passes(attack, prepared.facts.shape) * draws)


EXECUTORS = ("processes", "ray", "serial")


def workers_here(plan: Plan) -> int:
    """As many workers as this machine has cores for, each with the plan's threads."""
    return max((os.cpu_count() or 1) // plan.threads, 1)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where ``ray`` runs: a cluster's address, None for this machine; gpus is the share that a job on CUDA takes."""

    address: str | None = None
    gpus: float = 1.0


def make_executor(
    kind: str, workers: int | None, prepared: Prepared, root: Path, cluster: Cluster | None = None
) -> Executor:
    """One of EXECUTORS; workers, of one machine, defaults to its cores divided by the plan's threads."""
    from actsec.running.tasks import run

    if kind == "serial":
        return Serial(partial(run, loaded=prepared.scene), root)
    if kind not in EXECUTORS:
        raise unknown("executor", kind, EXECUTORS)
    if prepared.scene.given != Given():
        raise PlanError("a model or data given as a Python object stays in this process", "Use executor='serial'.")
    workers = workers or workers_here(prepared.plan)
    if kind == "ray":
        from actsec.running.ray_executor import Ray

        at = cluster or Cluster()
        return Ray(prepared.scene, root, address=at.address, workers=workers, gpus=at.gpus)
    scene.leave(prepared.scene, Store(root))
    return Processes(run, root, workers, prepared.plan.timeout)


def finish(prepared: Prepared, store: Store, *, complete: bool, lost: int = 0) -> Result:
    """Assemble the result and write report.json, examples.npz and report.html. A partial run gives a partial report."""
    from actsec.hardening.chains import threads
    from actsec.reports import manifest
    from actsec.reports.load import Report, write
    from actsec.running.conduct import seeded
    from actsec.search.features import echo_eps
    from actsec.target import echo_eps as echoed
    from actsec.verdict.assembling import assemble

    with threads(prepared.plan.threads), seeded(FIRST_SIGHT):
        base = scene.base_target(prepared.scene, variants(prepared.plan)[0])

    def echo(threat: Threat) -> str:
        if threat.eps is None:
            return "the smallest change that works"
        table = prepared.scene.test.table
        return echoed(threat.eps, base, threat.norm) if table is None else echo_eps(threat.eps, table, threat.norm)

    result, images = assemble(prepared.scene, prepared.facts, store, complete=complete, echo=echo)
    environment = {**_environment(store), "workers_lost": lost}
    environment["passes"] = _passes(prepared, store)
    environment["estimates"] = _prices(prepared, result, environment["training_seconds_per_pass"])
    if prepared.plan.no_examples:
        return _handed_on(Report(result, environment, None, str(store.root)), prepared.plan, store)
    record = {"result": dataclasses.asdict(result), "environment": environment}
    store.put_file("report.json", (json.dumps(record, sort_keys=True, allow_nan=False, indent=1) + "\n").encode())
    if images:
        buffer = io.BytesIO()
        np.savez(buffer, **images)  # type: ignore[arg-type]  # arrays by name
        store.put_file("examples.npz", buffer.getvalue())
    write(Report(result, environment, images or None, str(store.root)), store.root / "report.html", "html")
    store.put_file(manifest.NAME, manifest.text(store.root).encode())
    return result


def _handed_on(whole: Report, plan: Plan, store: Store) -> Result:
    """Write the reports of a run that keeps inputs, paths and names to itself, and the folder that may be handed on."""
    from actsec.reports import manifest
    from actsec.reports.load import to_json, write
    from actsec.reports.redacting import redacted
    from actsec.running.sharing import share

    (store.root / "examples.npz").unlink(missing_ok=True)
    told = redacted(whole)
    store.put_file("report.json", to_json(told).encode())
    write(told, store.root / "report.html", "html")
    share(told, plan, store.root)
    store.put_file(manifest.NAME, manifest.text(store.root).encode())
    return told.result


def _environment(store: Store) -> dict[str, Any]:
    """What differs from run to run: hardware, versions, times. Never part of the result."""
    from importlib.metadata import version

    found = [cost for cost in store.costs().values() if _is_cost(cost)]
    passes = sum(c.get("passes", 0) for c in found)
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "packages": {name: version(name) for name in ("torch", "numpy", "scikit-learn", "scipy")},
        **({"plug-ins": theirs} if (theirs := registry.packages()) else {}),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "job_seconds": round(sum(c["seconds"] for c in found), 1),
        "jobs": len(found),
        "peak_mib": max((c["peak_mib"] for c in found), default=0),
        "seconds_by_kind": _by_kind(found),
        "seconds_by_label": {c["label"]: c["seconds"] for c in found if c["kind"] in ("base", "defend")},
        "seconds_per_pass": sum(c["seconds"] for c in found if c.get("passes")) / passes if passes else None,
        "training_seconds_per_pass": next((c["seconds_per_pass"] for c in found if "seconds_per_pass" in c), None),
        "fixes": {
            c["variant"]: {"seconds": c["seconds"], "latency_ratio": c.get("latency_ratio")}
            for c in found
            if c["kind"] == "defend" and "variant" in c
        },
    }


def _passes(prepared: Prepared, store: Store) -> dict[str, int]:
    """Passes of one image that the attacks took, a backward counting as two, and what they would have at most."""
    found, known = store.costs(), {job.id: job for job in prepared.jobs if job.kind in ("attack", "craft")}
    taken = {job_id: int(cost["passes"]) for job_id, cost in found.items() if cost.get("passes") and job_id in known}
    return {
        "attacks": sum(taken.values()),
        "attacks, had nothing stopped early": round(sum(estimate(prepared, known[job_id]) for job_id in taken)),
    }


def _is_cost(record: dict[str, Any]) -> bool:
    """Whether a cost reads as it was written: one that somebody edited is left out of the times."""
    numbers = [record.get("seconds"), record.get("peak_mib"), record.get("latency_ratio") or 0.0]
    numbers += [record.get(key, 0.0) for key in ("passes", "seconds_per_pass")]
    texts = [record.get("kind"), record.get("label"), record.get("variant", "")]
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(number, (int, float)) and abs(number) < 1e15 for number in numbers
    )


def _prices(prepared: Prepared, result: Result, seconds_per_pass: float | None) -> dict[str, str]:
    """How long the untested defenses would take to fit here, at the speed measured."""
    if seconds_per_pass is None:
        return {}
    on = "" if prepared.scene.splits.train is not None else " for each 10,000 training images"
    passes = {advice.variant: advice.passes for advice in result.advice if advice.label == "not tested"}
    return {name: f"about {costs.words(n * seconds_per_pass)}{on}" for name, n in passes.items() if n}


def _by_kind(found: Iterable[dict[str, Any]]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for cost in found:
        totals[cost["kind"]] = round(totals.get(cost["kind"], 0.0) + cost["seconds"], 1)
    return totals


def default_out(prepared: Prepared) -> Path:
    """``runs/`` and the hash of the plan: the same audit goes on where it stopped."""
    part = "" if prepared.part is None else f"-{prepared.part.number}-of-{prepared.part.of}"
    return Path("runs") / f"{plan_id(prepared.plan, prepared.facts)[:12]}{part}"


def audit(
    plan: Plan,
    out: str | Path | None = None,
    *,
    executor: str = "processes",
    workers: int | None = None,
    tell: Tell = lambda _: None,
    given: Given | None = None,
) -> tuple[Result, Store]:
    """Run a plan from beginning to report. Raises Interrupted after writing a partial report."""
    prepared = prepare(plan, given)
    store = Store.create(out or default_out(prepared), prepared.plan, prepared.facts)
    return run_prepared(prepared, store, executor=executor, workers=workers, tell=tell), store


def run_prepared(
    prepared: Prepared,
    store: Store,
    *,
    executor: str,
    workers: int | None,
    tell: Tell,
    cluster: Cluster | None = None,
) -> Result:
    """Execute what is left of a prepared plan and write its report."""
    made = make_executor(executor, workers, prepared, store.root, cluster)
    with store.held():
        try:
            errors = execute(prepared, store, made, tell)
        except Interrupted as stop:
            try:
                finish(prepared, store, complete=False, lost=made.lost)
            except Exception as problem:
                raise Interrupted(f"{stop.problem}; no partial report: {problem}", stop.mend) from problem
            where = store.root / "report.html"
            raise Interrupted(f"{stop.problem}; what is known so far: {where}", stop.mend) from None
        return finish(prepared, store, complete=not errors, lost=made.lost)


def run_part(
    prepared: Prepared,
    store: Store,
    *,
    executor: str,
    workers: int | None,
    tell: Tell,
    cluster: Cluster | None = None,
) -> dict[str, str]:
    """Execute what is left of a part; the errors by job id. Its report is written by ``merging.merge``."""
    made = make_executor(executor, workers, prepared, store.root, cluster)
    with store.held():
        return execute(prepared, store, made, tell)


@contextlib.contextmanager
def _stoppable(executor: Executor, told: Callable[[], None]) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM end a run when what is running has finished; the list yielded is empty until then.

    Where jobs run elsewhere, or at the second signal, KeyboardInterrupt is raised at once.
    """
    pressed: list[int] = []

    def stop(number: int, _frame: object) -> None:
        pressed.append(number)
        if not executor.here or len(pressed) > 1:
            raise KeyboardInterrupt
        told()

    # A shell's background job ignores Ctrl-C, and goes on doing so.
    numbers = [signal.SIGTERM, *([signal.SIGINT] if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN else [])]
    before = {}
    try:
        with contextlib.suppress(ValueError):  # not the main thread: the embedding program has its own handling
            for number in numbers:
                before[number] = signal.signal(number, stop)
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
