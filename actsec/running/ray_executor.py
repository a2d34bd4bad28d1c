"""Jobs on a Ray cluster, or on this machine alone where no address is given.

Nothing but the libraries is taken to be on the workers' machines: data, the outcomes that a job rests on, and the files
that the plan names by relative paths travel through Ray; outcomes come back and are written by this process alone.
Files named by absolute paths must be where the workers run.
"""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import logging
import os
import pickle
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from actsec.data.streamed import Streamed
from actsec.errors import ActsecError, PlanError, StoreError
from actsec.planning.plan import Plan
from actsec.running.deadline import said
from actsec.running.executors import DIED_TWICE, GRACE
from actsec.running.scene import Scene, versions
from actsec.running.store import Store
from actsec.types import Job

Left = tuple["str | None", dict[str, bytes]]
"""The error of a job, if any, and the files of its outcome."""


class Ray:
    """A task for each job, as many at once as the cluster has cores for.

    A job that loses its worker is tried once more, by itself; the second time it has failed. A cluster that is already
    joined (``ray.init``) is used and left as it is.
    """

    here = False

    def __init__(self, scene: Scene, root: Path, *, address: str | None, workers: int, gpus: float = 1.0) -> None:
        ray, plan = _ray(), scene.plan
        self._ray, self._store, self._plan = ray, Store(root), plan
        self._staged = tempfile.TemporaryDirectory(prefix="actsec-")
        self._joined = not ray.is_initialized()
        if self._joined:
            _join(ray, plan, address, workers, Path(self._staged.name))
        share = {"num_gpus": gpus} if plan.device.startswith("cuda") else {}
        self._work = ray.remote(max_retries=0, num_cpus=plan.threads, **share)(work)
        self._cores = 0
        # Workers on this machine read image folders themselves; elsewhere their rows travel.
        sent, self._parcels = (scene, {}) if self._joined and address is None else _parcelled(ray, scene)
        self._scene = ray.put(pickle.dumps(sent))
        self._versions = versions()
        self._needed: dict[str, Any] = {}
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: dict[Any, tuple[Job, float]] = {}
        self._tried: set[str] = set()
        self.lost = 0

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self._fill()

    def next(self) -> tuple[Job, str | None]:
        while True:
            self._cores = int(self._ray.cluster_resources().get("CPU", 0))
            self._fill()
            (done, *_), _ = self._ray.wait(list(self._running), num_returns=1)
            if (found := self._taken(done)) is not None:
                return found

    def close(self, *, kill: bool = False) -> None:
        self._waiting.clear()
        for task in list(self._running):
            if kill:
                self._ray.cancel(task, force=True)
            else:
                self._taken(task)
        if self._joined:
            self._ray.shutdown()
        self._staged.cleanup()

    def _fill(self) -> None:
        """Start what there are cores for. Only what has begun cannot be dropped again."""
        while self._waiting and len(self._running) < max(self._cores // self._plan.threads, 1):
            job = self._waiting.popleft()
            needs = [self._need(job_id) for job_id in job.needs]
            self._running[self._work.remote(job, self._scene, self._versions, self._parcels, *needs)] = (
                job,
                time.monotonic(),
            )

    def _need(self, job_id: str) -> Any:
        """The files of an outcome in the object store, put there once."""
        if job_id not in self._needed:
            self._needed[job_id] = self._ray.put(self._store.files(job_id))
        return self._needed[job_id]

    def _taken(self, task: Any) -> tuple[Job, str | None] | None:
        """A finished task's job and error, its outcome stored; None for a job that lost its worker and waits again."""
        job, began = self._running.pop(task)
        try:
            error, files = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as problem:
            if isinstance(problem.cause, ActsecError):
                raise problem.cause from None
            return job, f"{type(problem.cause).__name__}: {problem.cause}"
        except self._ray.exceptions.RayError:
            self.lost += 1
            if self._plan.timeout is not None and time.monotonic() - began > self._plan.timeout:
                return job, said(self._plan.timeout)
            if job.id in self._tried:
                return job, DIED_TWICE
            self._tried.add(job.id)
            self._waiting.appendleft(job)
            return None
        self._store.put_files(files)
        return job, error


PARCEL = 256
"""Rows of an image folder that travel together."""


@dataclass(slots=True, eq=False)
class Parcels:
    """Rows of a streamed data set in Ray's object store: a worker fetches what its job reads."""

    name: str
    refs: Sequence[Any] = ()
    last: tuple[int, Any] = (-1, None)

    def row(self, number: int) -> npt.NDArray[np.uint8]:
        """A row as it was stored."""
        parcel, place = divmod(number, PARCEL)
        if self.last[0] != parcel:
            self.last = parcel, _ray().get(self.refs[parcel])
        found: npt.NDArray[np.uint8] = self.last[1][place]
        return found

    def where(self, number: int) -> str:
        """The row in words."""
        return f"row {number} of {self.name}"


def _parcelled(ray: Any, scene: Scene) -> tuple[Scene, dict[str, list[Any]]]:
    """The scene with its streamed rows in the object store, and what they are called there, by split."""
    splits, parcels = scene.splits, dict[str, list[Any]]()
    for name in ("test", "train", "calibration"):
        split = getattr(splits, name)
        if split is None or not isinstance(x := split.x, Streamed):
            continue
        starts = range(0, len(x), PARCEL)
        parcels[name] = [ray.put(x.stored(slice(start, start + PARCEL))) for start in starts]
        away = Streamed(Parcels(split.name), np.arange(len(x), dtype=np.int64), x.item, x.ids)
        splits = replace(splits, **{name: replace(split, x=away)})
    return replace(scene, splits=splits), parcels


def work(job: Job, scene: bytes, expected: str, parcels: dict[str, list[Any]], *needs: dict[str, bytes]) -> Left:
    """Run a job on a worker, in a run folder of its own that holds the outcomes it rests on.

    Raises StoreError where the worker's libraries are others than the run began with.
    """
    from actsec.running import tasks

    if (here := versions()) != expected:
        raise StoreError(f"a Ray worker has {here}, the run began with {expected}", "Install the same on all machines.")
    loaded = _scene(scene)
    for name, refs in parcels.items():
        getattr(loaded.splits, name).x.source.refs = refs
    with tempfile.TemporaryDirectory(prefix="actsec-") as folder, _ended(loaded.plan.timeout):
        store = Store(Path(folder))
        for name in ("outcomes", "costs"):
            (store.root / name).mkdir()
        for files in needs:
            store.put_files(files)
        error = tasks.run(job, store.root, loaded)
        return error, store.files(job.id)


@lru_cache(maxsize=1)
def _scene(content: bytes) -> Scene:
    """The plan and its data, read once in each worker."""
    loaded: Scene = pickle.loads(content)  # noqa: S301  # nosec B301  # made by the process that started this worker
    return loaded


@contextlib.contextmanager
def _ended(timeout: float | None) -> Iterator[None]:
    """End this worker when a job is still at it after its time-out and GRACE, whatever code does not return."""
    if timeout is None:
        yield
        return
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(timeout + GRACE, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


def _ray() -> Any:
    """Ray, which tells nobody that it is used. Raises PlanError where it is not installed."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray would hide GPUs from tasks that ask for none, and says so each time.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as problem:
        raise PlanError("--executor ray: Ray is not installed", "pip install 'actsec[ray]'") from problem
    return ray


def _join(ray: Any, plan: Plan, address: str | None, workers: int, staged: Path) -> None:
    """Join the cluster at an address, or start one on this machine. Raises PlanError when nobody answers."""
    told: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    if address is None:
        ray.init(address="local", num_cpus=workers * plan.threads, **told)
        return
    _stage(plan, staged)
    told.pop("include_dashboard")
    try:
        ray.init(address=address, runtime_env={"working_dir": str(staged)}, **told)
    except (ConnectionError, ValueError, RuntimeError) as problem:
        mend = "Start one: ray start --head; or leave --address out to use this machine."
        raise PlanError(f"--address {address}: no Ray cluster answers: {problem}", mend) from problem


def _stage(plan: Plan, folder: Path) -> None:
    """Copy what the plan names by relative paths, the model's neighbours among it, as the workers' directory."""
    code, mark, _ = plan.model.partition(".py:")
    files = [Path(f"{code}.py"), *Path(code).parent.glob("*.py")] if mark else [Path(plan.model)]
    for path in (*files, *(Path(text) for text in (plan.weights, plan.mask) if text is not None)):
        if path.is_absolute() or ".." in path.parts or not path.exists():
            continue
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, place, dirs_exist_ok=True)
        else:
            shutil.copy2(path, place)
