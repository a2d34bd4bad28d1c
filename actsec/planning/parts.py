"""Parts of a plan, for schedulers that know nothing of actsec: part 3 of 16 is the same jobs wherever it is run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actsec.errors import BadOption
from actsec.types import Job


@dataclass(frozen=True, slots=True)
class Part:
    """The number-th of ``of`` parts, counted from 1; printed and parsed as ``3/16``."""

    number: int
    of: int

    @staticmethod
    def parse(text: str) -> Part:
        """A part of texts such as ``3/16``. Raises BadOption."""
        number, _, of = text.partition("/")
        short = max(len(number), len(of)) < 10  # what int() reads at once
        if not (short and number.strip().isdecimal() and of.strip().isdecimal() and 1 <= int(number) <= int(of)):
            raise BadOption(f"--shard {text!r} is no part", "Write 3/16 for the third of 16; the last is 16/16.")
        return Part(int(number), int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def jobs(self, every: Sequence[Job]) -> tuple[Job, ...]:
        """The part's own jobs and all they rest on, in the order of ``every``.

        Jobs are dealt out in the order of their kinds and content hashes, so that the parts are of about equal work.
        What they rest on (weights, examples to transfer) is made in each part that needs it, to the same bytes: parts
        never wait for each other.
        """
        by_id = {job.id: job for job in every}
        models = {need for job in every for need in job.needs if by_id[need].kind in ("base", "defend")}
        dealt = sorted((job for job in every if job.id not in models), key=lambda job: (job.kind, job.id))
        wanted, found = [job.id for job in dealt[self.number - 1 :: self.of]], set()
        while wanted:
            job_id = wanted.pop()
            if job_id not in found:
                found.add(job_id)
                wanted += by_id[job_id].needs
        return tuple(job for job in every if job.id in found)
