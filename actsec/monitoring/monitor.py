"""The monitor of a model in a loop: attach, detach, and what happens at each pass."""

from __future__ import annotations

import math
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self, TextIO

import torch
from torch import nn

from actsec.activations import Site, Unresolved
from actsec.activations.finding import tensors
from actsec.activations.following import Follower, following, refuse_scripted
from actsec.errors import BadOption, ModelError
from actsec.health.drift import WINDOWS
from actsec.monitoring.baselines import opened, save, told
from actsec.monitoring.hooks import After, Before
from actsec.monitoring.pacing import Alike, Pace
from actsec.monitoring.record import Record, Report
from actsec.monitoring.seeing import Looker, Seen, SiteFinder
from actsec.monitoring.writing import Lines


@dataclass(slots=True)
class _Pass:
    """A forward pass that is being made."""

    step: int
    began: float
    alike: Alike
    rows: int
    fault: BaseException | None  # what was being handled when it began
    stack: ExitStack | None = None  # None: timed, not watched
    follower: SiteFinder | Looker | None = None
    hook: Any = None  # sees its end

    def unhook(self) -> None:
        if self.hook is not None:
            self.hook.remove()


class ActivationMonitor:
    """Reports dead, saturated, not finite and drifted activation sites of ``model`` while it trains or serves.

    to: a path, which is appended to, or an open text file: one JSON object a line, the fields of ``Reading``, a line
    a site and window. callback: called with each ``Report``; what it raises ends the loop. budget: the share of the
    forward passes' time that watching may cost; ``math.inf`` watches every pass. rows: the most looked at in a watched
    pass. window: the rows on which a reading rests. baseline: what ``save_baseline`` wrote or ``baseline`` gave;
    without one it is taken from the first 4 windows in eval mode whose weights are the same.

    Raises ModelError for what cannot be watched: compiled and scripted models, a model spread over several devices.
    BadOption and StoreError for options; DataError for a baseline that cannot be read. While it is attached, only the
    path's failed writes (one warning), a failed watch (one warning) and the callback are ever heard of.

    Limits: what is in no watched row is not seen, a single NaN among many rows above all. Sites that cannot be watched
    are ``unresolved``. Passes inside torch.compile, torch.export and torch.jit.trace, and ``model.forward`` called past
    the hooks, are not seen; a monitor that saw none says so at the end. One thread's pass is watched at a time. A
    KeyboardInterrupt inside a pass leaves a hook on torch's calls until the next pass or ``detach``.
    """

    def __init__(
        self,
        model: nn.Module,
        to: str | Path | TextIO | None = None,
        callback: Callable[[Report], object] | None = None,
        *,
        budget: float = 0.05,
        rows: int = 16,
        window: int = 128,
        baseline: str | Path | dict[str, Any] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            mend = "Give target.model." if hasattr(model, "model") else "Give the model itself."
            raise ModelError(f"a monitor watches a torch.nn.Module, not a {type(model).__name__}", mend)
        _positive("budget", budget, math.inf)
        for name, value in (("rows", rows), ("window", window)):
            if not isinstance(value, int):
                raise BadOption(f"{name} = {value!r}", "It is a whole number, 1 or more.")
            _positive(name, value, 1 << 30)
        refuse_scripted(model)
        Follower(model).survey()
        self.model, self.callback = model, callback
        self.budget, self.rows, self.window = float(budget), rows, window
        self.passes = self.watched = self.copies = 0
        self._record = Record(model, window, {} if baseline is None else opened(baseline))
        self._lines, self._pace = Lines(to), Pace(float(budget))
        self._hooks: list[Any] = []
        self._local = threading.local()
        self._busy = threading.Lock()  # held while a pass is watched
        self._steps = count(1)
        self._broken = ""

    # --- what a user asks -----------------------------------------------------------------------------------------

    def attach(self) -> Self:
        """Begin to watch. Raises StoreError when the path cannot be written."""
        if not self._hooks:
            self._lines.open()
            self._hooks = [self.model.register_forward_pre_hook(Before(self), prepend=True, with_kwargs=True)]
        return self

    def detach(self) -> None:
        """Stop watching, and report what the last window has. Nothing of the monitor is left on the model."""
        if not self._hooks:
            return
        self._drop()
        hooks, self._hooks = self._hooks, []
        held = self._busy.acquire(timeout=10)  # another thread's watched pass ends first, or it would leave its hooks
        for hook in hooks:
            hook.remove()
        if held:
            self._busy.release()
        if not self.passes:
            said = "it saw no forward pass: the model is compiled, its forward is called directly, or it was not called"
            warnings.warn(f"ActivationMonitor: {said}", RuntimeWarning, stacklevel=2)
        try:
            self._tell(self._record.close(self.passes, self._last()))
        finally:
            self._lines.close()

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    @property
    def attached(self) -> bool:
        return bool(self._hooks)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites met so far that are watched; none before the first watched pass."""
        return tuple(tally.site for tally in self._record.tallies.values())

    @property
    def unresolved(self) -> tuple[Unresolved, ...]:
        """What acts as an activation and is not watched, and why."""
        return self._record.unresolved

    @property
    def every(self) -> int:
        """k: one in so many passes is watched, as it looks now; 1 before anything was measured or without a budget."""
        return self._pace.every

    def baseline(self) -> dict[str, Any]:
        """The baseline as JSON: a histogram a site that has one so far."""
        return told({name: tally.base for name, tally in self._record.tallies.items() if tally.base is not None})

    def save_baseline(self, path: str | Path) -> None:
        """Write the baseline. Raises DataError while there is none, StoreError when it cannot be written."""
        save(self.baseline(), path, WINDOWS * self.window)

    # --- what the hooks do ----------------------------------------------------------------------------------------

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch._C._get_tracing_state() is not None:  # noqa: SLF001  # torch.jit.is_tracing has no types
            return
        if module is not self.model:  # a replica of nn.DataParallel
            self.copies += 1
            return
        self._drop()
        self.passes = step = next(self._steps)
        if not self._pace.let_go() and not self._broken:
            self._begin(step, args, kwargs)

    def _begin(self, step: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        began = perf_counter()
        given = list(tensors((args, kwargs)))
        size = max((tensor.numel() for tensor in given), default=0)
        rows = len(given[0]) if given and given[0].dim() else 1
        alike = (size.bit_length(), self.model.training, torch.is_grad_enabled())
        now = _Pass(step, began, alike, rows, sys.exception())
        if self._pace.due(alike) and self._busy.acquire(blocking=False):
            try:
                known = self._record.known[self.model.training]
                seen = Seen(known, self.rows)
                now.follower = Looker(self.model, seen) if known.settled else SiteFinder(self.model, seen, given)
                now.stack = ExitStack()
                now.stack.enter_context(following(now.follower))
                now.follower.enter(self.model)
            except Exception as problem:  # noqa: BLE001  # whatever it is, the model must not fail of it
                self._abandon(now)
                self._give_up(problem)
                return
        # only now: a hook costs microseconds, pass by pass
        now.hook = self.model.register_forward_hook(After(self), always_call=True)
        self._local.now = now

    def after(self, _module: nn.Module, _args: Any, output: Any) -> None:
        now: _Pass | None = getattr(self._local, "now", None)
        if now is None:
            return
        self._local.now = None
        now.unhook()
        failed = sys.exception() is not now.fault
        if now.stack is None:
            if not failed:
                self._pace.timed(now.alike, perf_counter() - now.began)
            return
        report = None
        now.stack.close()
        done = perf_counter()
        try:
            if not failed:
                assert now.follower is not None  # noqa: S101  # a watched pass has one
                self.watched += 1
                report = self._record.take(now.follower, now.alike[1], now.rows, output, now.step)
                ended = perf_counter()
                self._pace.pay(now.alike, ended - now.began, ended - done)
        except Exception as problem:  # noqa: BLE001  # as above
            self._give_up(problem)
        finally:
            now.stack = None
            self._busy.release()
        self._tell(report)

    def _last(self) -> str:
        """How much was watched, for the closing note."""
        few = f", one in {self.every} by the budget" if self.every > 1 else ""
        also = f", {self.copies} made by copies of the model and not seen" if self.copies else ""
        why = f"; {self._broken}" if self._broken else ""
        return f"detached after {self.passes} passes, {self.watched} watched{few}{also}{why}"

    def _tell(self, report: Report | None) -> None:
        if report is None:
            return
        self._lines.write(report.readings)
        if self.callback is not None:
            self.callback(report)

    def _drop(self) -> None:
        """End this thread's pass where it was left without a word: interrupted, or called inside itself."""
        now: _Pass | None = getattr(self._local, "now", None)
        self._local.now = None
        if now is not None:
            self._abandon(now)

    def _abandon(self, now: _Pass) -> None:
        now.unhook()
        if now.stack is not None:
            now.stack.close()
            now.stack = None
            self._busy.release()

    def _give_up(self, problem: Exception) -> None:
        self._broken = f"watching stopped: {type(problem).__name__}: {problem}"
        warnings.warn(f"ActivationMonitor: {self._broken}", RuntimeWarning, stacklevel=3)


def _positive(name: str, value: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise BadOption(f"{name} = {value!r}", "It is a number above 0.")
