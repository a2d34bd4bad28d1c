"""Which executor runs the jobs, and how many workers it has here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from actsec.errors import PlanError, unknown
from actsec.planning.plan import Plan
from actsec.running import run_scene
from actsec.running.executors import Executor, Processes, Serial
from actsec.running.preparing import Prepared
from actsec.running.scene import Given
from actsec.running.store import Store

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
    run_scene.leave(prepared.scene, Store(root))
    return Processes(run, root, workers, prepared.plan.timeout)
