"""Importing torch and what needs it, for commands that cannot do without."""

from __future__ import annotations

import importlib
import signal
import threading


def import_core() -> None:
    """Import torch and what needs it. torch aborts the process when Ctrl-C reaches it there, so Ctrl-C waits."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: pressed.append(number))
    try:
        importlib.import_module("actsec.running.runner")
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
