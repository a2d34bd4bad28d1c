"""The audit: check and plan (``preparing``), run (``executing``), assemble and report (``finishing``).

Nothing finished is lost: each job's outcome is stored the moment it ends, and a run is taken up again by running the
jobs that have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from actsec.errors import Interrupted
from actsec.planning.jobs import plan_id
from actsec.planning.plan import Plan
from actsec.result import Result
from actsec.running.executing import execute
from actsec.running.finishing import finish
from actsec.running.places import Cluster, make_executor
from actsec.running.preparing import Prepared, prepare
from actsec.running.progress import Tell
from actsec.running.scene import Given
from actsec.running.store import Store

if TYPE_CHECKING:
    pass


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
