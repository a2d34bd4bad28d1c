"""What a run tells of itself while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


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
LOST = "a worker died; the jobs it had are tried again, one at a time"
DAMAGED = "measured again, for their outcomes are not whole (cut short, changed or deleted)"
STOPPING = "stopping: running jobs are finished first (Ctrl-C again ends them at once)"
