"""Every job without an outcome is run; what Ctrl-C and SIGTERM do meanwhile."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

from actsec.errors import Interrupted
from actsec.running.agenda import Agenda
from actsec.running.clock import Clock
from actsec.running.executors import Executor
from actsec.running.preparing import Prepared
from actsec.running.progress import DAMAGED, LOST, STOPPING, Progress, Tell
from actsec.running.store import Store
from actsec.types import Job, Outcome


def execute(prepared: Prepared, store: Store, executor: Executor, tell: Tell) -> dict[str, str]:
    """Run every job without an outcome; the errors by job id.

    Raises Interrupted on Ctrl-C and SIGTERM, once what was running has finished and is stored; a second one ends that.
    """
    every = prepared.jobs
    finished = {job.id for job in every if store.done(job.id)}
    waiting = [job for job in every if job.id not in finished]
    clock, errors, running, lost = Clock(prepared, waiting), {}, 0, 0
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
