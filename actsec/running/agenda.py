"""Jobs that wait for others. When one ends, only what rests on it is looked at: thousands of jobs cost no more each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actsec.types import Job


class Agenda:
    """What of a run is still to be submitted; jobs become ready in the order they were given."""

    def __init__(self, waiting: Sequence[Job], finished: Iterable[str]) -> None:
        """``waiting`` without outcomes, ``finished`` with them. A need that is neither is never met."""
        known = set(finished)
        self._jobs = {job.id: job for job in waiting}
        self._unmet = {job.id: {need for need in job.needs if need not in known} for job in waiting}
        self._dependants: dict[str, list[str]] = {}
        for job in waiting:
            for need in self._unmet[job.id]:
                self._dependants.setdefault(need, []).append(job.id)
        self._ready = [job.id for job in waiting if not self._unmet[job.id]]

    def __len__(self) -> int:
        """Jobs that were not taken yet."""
        return len(self._jobs)

    def take(self) -> list[Job]:
        """The jobs whose needs are all met, and which were not taken before."""
        ready, self._ready = self._ready, []
        return [self._jobs.pop(job_id) for job_id in ready]

    def finished(self, job_id: str) -> None:
        """A job left an outcome."""
        for other in self._dependants.pop(job_id, ()):
            if other in self._jobs:
                self._unmet[other].discard(job_id)
                if not self._unmet[other]:
                    self._ready.append(other)

    def failed(self, job_id: str) -> None:
        """A job left none: whatever rests on it, near or far, is given up."""
        gone = [job_id]
        while gone:
            others = self._dependants.pop(gone.pop(), ())
            gone += [other for other in others if self._jobs.pop(other, None) is not None]
