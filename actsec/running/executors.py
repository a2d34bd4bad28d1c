"""Where jobs run. An executor takes jobs as they become ready and says which are finished; results go to the store.

``Serial`` runs in this process; ``Processes`` runs workers by spawn, each with the plan's thread count. The result is
the same bytes: a job depends on its recipe and on nothing about the worker.
"""

from __future__ import annotations

import collections
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Protocol

from actsec.errors import ActsecError
from actsec.running.deadline import said
from actsec.types import Job

Work = Callable[[Job, Path], "str | None"]
"""Runs a job and stores its outcome; returns the message of the error that ended it, or None."""


DIED_TWICE = "its worker died twice: killed from outside, or for want of memory, or by the model's own code"
GRACE = 60.0
"""Seconds that a worker has beyond a job's time-out, to start and to end the job itself, before it is killed."""


class Executor(Protocol):
    """Takes jobs, gives back finished ones in any order."""

    @property
    def here(self) -> bool:
        """Whether jobs run in this process: then ``next`` must not be interrupted, or the job is lost."""

    @property
    def lost(self) -> int:
        """How many workers died; the jobs they had were tried again."""

    def submit(self, job: Job) -> None:
        """Accept a job whose needs are all done."""

    def next(self) -> tuple[Job, str | None]:
        """Block until some submitted job is finished; the job and its error, if any. Raises StoreError."""

    def close(self, *, kill: bool = False) -> None:
        """Drop what has not begun; kill ends running jobs at once, otherwise they finish and are stored."""


class Serial:
    """One job after another, in this process."""

    here = True
    lost = 0

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
    """Spawned workers. When one dies, the jobs in flight are tried again one at a time, so that the one to blame shows.

    A job that loses its worker a second time is reported as an error; the others never suffer for it. Workers are given
    one job at a time, end with their parent however it dies, and leave Ctrl-C to it. A worker that is still at a job
    after ``timeout`` seconds and GRACE is killed: the job has failed, and what ran beside it is done again.
    """

    here = False

    def __init__(self, work: Work, root: Path, workers: int, timeout: float | None = None) -> None:
        self._work, self._root, self._workers, self._timeout = work, root, workers, timeout
        self._due: dict[str, float] = {}
        self._pool = self._start()
        self._waiting: collections.deque[Job] = collections.deque()
        self._suspects: collections.deque[Job] = collections.deque()
        self._running: dict[Future[str | None], Job] = {}
        self._finished: collections.deque[tuple[Job, str | None]] = collections.deque()
        self._tried: set[str] = set()
        self.lost = 0

    def submit(self, job: Job) -> None:
        self._waiting.append(job)
        self._fill()

    def next(self) -> tuple[Job, str | None]:
        while not self._finished:
            done, _ = wait(self._running, timeout=self._patience(), return_when=FIRST_COMPLETED)
            if not done:
                self._end_overdue()
            elif any(isinstance(future.exception(), BrokenProcessPool) for future in done):
                self._mourn()
            else:
                for future in done:
                    self._finished.append((self._running.pop(future), _outcome(future)))
            self._fill()
        return self._finished.popleft()

    def close(self, *, kill: bool = False) -> None:
        self._waiting.clear()
        self._suspects.clear()
        if kill:
            self._kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _kill(self) -> None:
        for process in list((self._pool._processes or {}).values()):  # noqa: SLF001  # the pool has no public kill
            process.kill()

    def _patience(self) -> float | None:
        """Seconds until a running job is overdue."""
        if self._timeout is None:
            return None
        return max(min(self._due[job.id] for job in self._running.values()) - time.monotonic(), 0.0)

    def _end_overdue(self) -> None:
        """Kill the workers, of which nobody says which has which job. Those that were in time begin again."""
        now = time.monotonic()
        self._kill()
        wait(self._running)
        self._pool.shutdown(wait=True)
        self._pool = self._start()
        for future, job in self._running.items():
            if not isinstance(future.exception(), BrokenProcessPool):
                self._finished.append((job, _outcome(future)))
            elif self._due[job.id] <= now:
                self._finished.append((job, said(self._timeout)))
            else:
                self._waiting.appendleft(job)
        self._running.clear()

    def _fill(self) -> None:
        """Give free workers a job. While there are suspects one of them runs, alone."""
        while len(self._running) < (1 if self._suspects or self._alone() else self._workers):
            queue = self._suspects or self._waiting
            if not queue:
                return
            try:
                with _deaf():
                    future = self._pool.submit(self._work, queue[0], self._root)
            except BrokenProcessPool:  # an idle worker died
                self._mourn()
            else:
                self._running[future] = job = queue.popleft()
                self._due[job.id] = time.monotonic() + (self._timeout or 0.0) + GRACE

    def _alone(self) -> bool:
        return any(job.id in self._tried for job in self._running.values())

    def _mourn(self) -> None:
        """Replace a broken pool. Every job it had is tried once more; what finished in it counts."""
        wait(self._running)
        self.lost += 1
        self._pool.shutdown(wait=True)
        self._pool = self._start()
        for future, job in self._running.items():
            if not isinstance(future.exception(), BrokenProcessPool):
                self._finished.append((job, _outcome(future)))
            elif job.id in self._tried:
                self._finished.append((job, DIED_TWICE))
            else:
                self._tried.add(job.id)
                self._suspects.append(job)
        self._running.clear()

    def _start(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"), initializer=_end_with_parent)


def _outcome(future: Future[str | None]) -> str | None:
    problem = future.exception()
    if isinstance(problem, ActsecError):
        raise problem
    return f"{type(problem).__name__}: {problem}" if problem else future.result()


@contextmanager
def _deaf() -> Iterator[None]:
    """Start workers with Ctrl-C blocked, from their first instruction: it reaches the whole process group."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """A parent killed outright cannot tell its workers; each watches for it and leaves at once."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
