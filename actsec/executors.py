"""Where jobs run. An executor takes jobs as they become ready and says which are finished; results go to the store.

``serial`` runs in this process; ``Processes`` runs workers by spawn, each with the plan's thread count. The result is
the same bytes: a job depends on its recipe and on nothing about the worker.
"""

from __future__ import annotations

import collections
import signal
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from actsec.types import Job

Work = Callable[[Job, Path], "str | None"]
"""Runs a job and stores its outcome; returns the message of the error that ended it, or None."""


class Executor(Protocol):
    """Takes jobs, gives back finished ones in any order."""

    def submit(self, job: Job) -> None:
        """Accept a job whose needs are all done."""

    def next(self) -> tuple[Job, str | None]:
        """Block until some submitted job is finished; the job and its error, if any."""

    def close(self, *, kill: bool = False) -> None:
        """Stop accepting; kill ends running workers at once, otherwise they finish their job."""

    @property
    def slots(self) -> int:
        """How many jobs it can work on at once."""


class Serial:
    """One job after another, in this process."""

    slots = 1

    def __init__(self, work: Work, root: Path) -> None:
        self._work, self._root = work, root
        self._queue: collections.deque[Job] = collections.deque()

    def submit(self, job: Job) -> None:
        self._queue.append(job)

    def next(self) -> tuple[Job, str | None]:
        job = self._queue.popleft()
        return job, self._work(job, self._root)

    def close(self, *, kill: bool = False) -> None:
        self._queue.clear()


class Processes:
    """Spawned workers. A worker that dies is replaced and its job tried once more, then reported as an error."""

    def __init__(self, work: Work, root: Path, workers: int) -> None:
        self._work, self._root, self.slots = work, root, workers
        self._pool = self._start()
        self._running: dict[Future[str | None], Job] = {}
        self._deaths: collections.Counter[str] = collections.Counter()
        self._finished: collections.deque[tuple[Job, str | None]] = collections.deque()

    def submit(self, job: Job) -> None:
        try:
            self._running[self._pool.submit(self._work, job, self._root)] = job
        except BrokenProcessPool:
            self._pool = self._start()
            self._running[self._pool.submit(self._work, job, self._root)] = job

    def next(self) -> tuple[Job, str | None]:
        while not self._finished:
            done, _ = wait(self._running, return_when=FIRST_COMPLETED)
            for future in done:
                job = self._running.pop(future)
                problem = future.exception()
                if isinstance(problem, BrokenProcessPool):
                    self._deaths[job.id] += 1
                    if self._deaths[job.id] > 2:
                        self._finished.append((job, "the worker died three times while running this job"))
                    else:
                        self.submit(job)
                else:
                    self._finished.append((job, str(problem) if problem else future.result()))
        return self._finished.popleft()

    def close(self, *, kill: bool = False) -> None:
        if kill:
            for process in (self._pool._processes or {}).values():  # noqa: SLF001  # the pool has no public kill
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.slots, mp_context=get_context("spawn"), initializer=_ignore_interrupts)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches the whole process group; only the parent decides, so that workers finish what they began."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
