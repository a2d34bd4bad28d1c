"""A limit on how long something may take in this process."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

from actsec.errors import PlanError


class TimedOut(BaseException):
    """The time is over. No Exception: a model that goes on whatever it is told would catch that."""


@contextlib.contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise TimedOut in the block once so many seconds are over; None sets no limit. Main thread only: PlanError.

    Python looks between two of its own instructions, so compiled code that never returns is not ended by this: a
    process is, from outside (``executors.Processes``).
    """
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        raise PlanError(
            f"--timeout {seconds:g}: only the main thread of a process can be interrupted",
            "Leave timeout out, or call actsec from the main thread.",
        )

    def over(_number: int, _frame: object) -> None:
        raise TimedOut

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, over)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # somebody else's alarm is due at its own time
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001), interval)


def said(seconds: float | None) -> str:
    """The error of a job that did not end."""
    return f"it did not end within {seconds:g} s (--timeout): the model hangs, or the limit is too short"
