"""Watching activations while a model trains or serves: dead, saturated, not finite, drifted.

    with actsec.ActivationMonitor(model, "activations.jsonl"):
        for x, y in loader: ...                    # the loop as it was

Two hooks on the model see its forward passes; most they let go by. Every k-th is watched, k such that what watching
costs stays within ``budget`` of the time of the passes, measured as the loop runs. What a watched pass computes, its
gradients, random numbers and train flags are those of any other pass.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self, TextIO

import torch
from torch import Tensor, nn

from actsec.activations import Site, Unresolved
from actsec.activations.calls import Activating
from actsec.activations.finding import Finder, tensors
from actsec.activations.following import Follower, following, refuse_scripted
from actsec.activations.listing import Sites, listed
from actsec.errors import BadOption, DataError, ModelError, StoreError
from actsec.readings import NO_SITE, UNRESOLVED, WINDOWS, Look, Reading, Tally, look, profile
from actsec.writing import Lines

TIMED = 4
"""Passes before a watched one that are timed, to know what a pass costs unwatched."""
SHARE = 0.8
"""Of the budget, what watching may use; the rest is for the hooks and for what a clock misses."""
ROUNDS = 32
"""Passes in which sites are looked for, in train and in eval mode each, where calls that were never met come up."""
_FORMAT = "actsec activation baseline 1"


@dataclass(frozen=True, slots=True)
class Report:
    """What a window showed: a reading a site in call order, and notes. ``findings`` are the readings that have any."""

    step: int
    readings: tuple[Reading, ...]

    @property
    def findings(self) -> tuple[Reading, ...]:
        return tuple(reading for reading in self.readings if reading.findings)


@dataclass(slots=True)
class _Seen:
    """What the sites of one pass showed."""

    known: _Known
    rows: int
    looks: list[tuple[Site, Look]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    strange: set[str] = field(default_factory=set)

    def take(self, name: str, call: Activating) -> None:
        site = self.known.sites.get(name)
        if site is not None and site.kind == call.kind:
            try:
                self.looks.append((site, look(site, call.z, self.rows)))
            except Exception as problem:  # noqa: BLE001  # whatever it is, the model must not fail of it
                self.failed[name] = f"cannot be read: {type(problem).__name__}: {str(problem).partition(chr(10))[0]}"
        elif name not in self.known.seen:
            self.strange.add(name)


class _Looker(Follower):
    """Looks at the sites of one pass."""

    def __init__(self, root: nn.Module, seen: _Seen) -> None:
        super().__init__(root)
        self.seen = seen

    def on_site(self, name: str, call: Activating) -> Tensor:
        self.seen.take(name, call)
        return call.as_asked()


class _Finder(Finder):
    """Finds the calls of one pass, and looks at those that are known."""

    def __init__(self, root: nn.Module, seen: _Seen, given: list[Tensor]) -> None:
        super().__init__(root, *given)
        self.seen = seen

    def on_site(self, name: str, call: Activating) -> Tensor:
        self.seen.take(name, call)
        return super().on_site(name, call)


@dataclass(slots=True)
class _Known:
    """What is known of the calls in train mode, or in eval mode."""

    sites: dict[str, Site] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    first: Finder | None = None  # a pass in which some call seemed not to depend on the input: the next one tells
    strange: set[str] = field(default_factory=set)  # calls that were met and not yet found
    settled: bool = False
    rounds: int = 0


@dataclass(slots=True)
class _Pass:
    """A forward pass that is being made."""

    step: int
    began: float
    alike: tuple[int, bool, bool]  # passes that cost the same: size of the input, train mode, gradients
    rows: int
    fault: BaseException | None  # what was being handled when it began
    stack: ExitStack | None = None  # None: timed, not watched
    follower: _Finder | _Looker | None = None
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
        self._given = {} if baseline is None else _opened(baseline)
        self._lines = Lines(to)
        self._tallies: dict[str, Tally] = {}
        self._known = {True: _Known(), False: _Known()}
        self._unresolved: dict[str, Unresolved] = {}
        self._failed: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()
        self._looked, self._mode, self._weights = 0, False, -1
        self._hooks: list[Any] = []
        self._local = threading.local()
        self._busy = threading.Lock()  # held while a pass is watched
        self._steps = count(1)
        self._wait = 0 if math.isinf(self.budget) else TIMED + 1
        self._usual: dict[tuple[int, bool, bool], deque[float]] = {}
        self._costs: deque[float] = deque(maxlen=5)
        self._broken = ""

    # --- what a user asks -----------------------------------------------------------------------------------------

    def attach(self) -> Self:
        """Begin to watch. Raises StoreError when the path cannot be written."""
        if not self._hooks:
            self._lines.open()
            self._hooks = [self.model.register_forward_pre_hook(_Before(self), prepend=True, with_kwargs=True)]
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
            self._tell(self._close(self.passes, ending=True))
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
        return tuple(tally.site for tally in self._tallies.values())

    @property
    def unresolved(self) -> tuple[Unresolved, ...]:
        """What acts as an activation and is not watched, and why."""
        failed = (Unresolved(name, reason) for name, reason in self._failed.items())
        return (*self._unresolved.values(), *failed)

    @property
    def every(self) -> int:
        """k: one in so many passes is watched, as it looks now; 1 before anything was measured or without a budget."""
        usual = [seconds for each in self._usual.values() for seconds in each]
        return self._rest(0.0, statistics.median(usual)) + 1 if usual and self._costs else 1

    def baseline(self) -> dict[str, Any]:
        """The baseline as JSON: a histogram a site that has one so far."""
        made = {name: tally.base for name, tally in self._tallies.items() if tally.base is not None}
        sites = {
            name: {"kind": p.kind, "edges": list(p.edges), "shares": list(p.shares), "noise": p.noise}
            for name, p in made.items()
        }
        return {"format": _FORMAT, "sites": sites}

    def save_baseline(self, path: str | Path) -> None:
        """Write the baseline. Raises DataError while there is none, StoreError when it cannot be written."""
        made = self.baseline()
        if not made["sites"]:
            needed = WINDOWS * self.window
            raise DataError("there is no baseline yet", f"It takes {needed} watched rows in eval mode.")
        try:
            Path(path).write_text(json.dumps(made, indent=1) + "\n")
        except OSError as problem:
            raise StoreError(f"the baseline cannot be written to {path}: {problem.strerror}", "Name another.") from None

    # --- what the hooks do ----------------------------------------------------------------------------------------

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch._C._get_tracing_state() is not None:  # noqa: SLF001  # torch.jit.is_tracing has no types
            return
        if module is not self.model:  # a replica of nn.DataParallel
            self.copies += 1
            return
        self._drop()
        self.passes = step = next(self._steps)
        if self._wait > TIMED:
            self._wait -= 1
        elif not self._broken:
            self._begin(step, args, kwargs)

    def _begin(self, step: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        began = perf_counter()
        given = list(tensors((args, kwargs)))
        size = max((tensor.numel() for tensor in given), default=0)
        rows = len(given[0]) if given and given[0].dim() else 1
        alike = (size.bit_length(), self.model.training, torch.is_grad_enabled())
        now = _Pass(step, began, alike, rows, sys.exception())
        due = self._wait <= 0 and (math.isinf(self.budget) or len(self._usual.get(alike, ())) > 1)
        if due and self._busy.acquire(blocking=False):
            try:
                known = self._known[self.model.training]
                seen = _Seen(known, self.rows)
                now.follower = _Looker(self.model, seen) if known.settled else _Finder(self.model, seen, given)
                now.stack = ExitStack()
                now.stack.enter_context(following(now.follower))
                now.follower.enter(self.model)
            except Exception as problem:  # noqa: BLE001  # whatever it is, the model must not fail of it
                self._abandon(now)
                self._give_up(problem)
                return
        # only now: a hook costs microseconds, pass by pass
        now.hook = self.model.register_forward_hook(_After(self), always_call=True)
        self._local.now = now

    def _after(self, _module: nn.Module, _args: Any, output: Any) -> None:
        now: _Pass | None = getattr(self._local, "now", None)
        if now is None:
            return
        self._local.now = None
        now.unhook()
        failed = sys.exception() is not now.fault
        if now.stack is None:
            if not failed:
                self._usual.setdefault(now.alike, deque(maxlen=9)).append(perf_counter() - now.began)
                self._wait = max(0, self._wait - 1)
            return
        report = None
        now.stack.close()
        done = perf_counter()
        try:
            if not failed:
                report = self._settle(now, output)
                self._pay(now, done)
        except Exception as problem:  # noqa: BLE001  # as above
            self._give_up(problem)
        finally:
            now.stack = None
            self._busy.release()
        self._tell(report)

    def _settle(self, now: _Pass, output: Any) -> Report | None:
        """Take in what a watched pass showed; the report, when a window is full."""
        self.watched += 1
        assert now.follower is not None  # noqa: S101  # a watched pass has one
        seen, training = now.follower.seen, now.alike[1]
        if isinstance(now.follower, _Finder):
            self._learn(now.follower, training, now.rows, output)
        elif seen.strange:  # the way through the model depends on the input: its calls are looked for anew
            self._known[training].strange |= seen.strange
            self._known[training].settled = False
        if not seen.looks and not seen.failed:
            return None
        report = self._close(now.step) if self._looked and training != self._mode else None
        self._mode = training
        weights = _version(self.model)
        if weights != self._weights:
            self._weights = weights
            for tally in self._tallies.values():
                tally.forget()
        for site, each in seen.looks:
            self._tallies[site.name].add(each, still=not training)
            self._failed.pop(site.name, None)
        self._failed.update(seen.failed)
        self._looked += max((each.rows for _, each in seen.looks), default=0)
        return self._close(now.step) if self._looked >= self.window else report

    def _learn(self, finder: _Finder, training: bool, rows: int, output: Any) -> None:
        """Sites of a pass. Where some call seems not to depend on the input, the next pass is asked as well."""
        known = self._known[training]
        finder.end(output)
        if known.first is None and any(not found.depends for found in finder.found):
            known.first = finder
            return
        found = listed(finder, known.first, rows)
        known.first = None
        known.rounds += 1
        known.seen |= found.seen
        known.strange -= known.seen
        if known.rounds >= ROUNDS:  # enough: what is strange by now stays so
            why = "its calls change from pass to pass, too often to follow"
            self._unresolved |= {name: Unresolved(name, why) for name in known.strange}
            known.seen |= known.strange
            known.strange = set()
        known.settled = not known.strange
        self._take(found, known)

    def _take(self, found: Sites, known: _Known) -> None:
        active = {site.name: site for site in found.active}
        for name in [site.name for site in found if site.name not in active]:
            known.left_out.add(name)
        for name, site in active.items():
            known.sites[name] = site
            base = self._given.get(name)
            if base is not None and base.kind != site.kind:
                why = f"the baseline's is {base.kind}, the model's {site.kind}: no drift is measured"
                self._unresolved[f"{name}!"] = Unresolved(name, why)
                base = None
            self._tallies.setdefault(name, Tally(site, self.window, base, given=base is not None))
        for item in found.unresolved:
            self._unresolved[f"{item.name}: {item.reason}"] = item
        for name in self._given.keys() - self._tallies.keys():
            self._unresolved[f"{name}?"] = Unresolved(name, "the baseline has it, the model was not seen to call it")
        for name in self._given.keys() & self._tallies.keys():
            self._unresolved.pop(f"{name}?", None)

    def _pay(self, now: _Pass, done: float) -> None:
        """How many passes go by until the next is watched, for the budget to hold."""
        if math.isinf(self.budget):
            return
        usual = statistics.median(self._usual[now.alike])
        ended = perf_counter()
        extra = max(ended - now.began - usual, ended - done)
        self._costs.append(extra)
        self._wait = self._rest(extra, usual)

    def _rest(self, extra: float, usual: float) -> int:
        cost = max(extra, statistics.median(self._costs))
        return 0 if math.isinf(self.budget) else math.ceil(cost / (SHARE * self.budget * max(usual, 1e-9)))

    def _close(self, step: int, ending: bool = False) -> Report | None:
        """End the window."""
        readings = [tally.read(step, self._mode) for tally in self._tallies.values()]
        self._looked = 0
        kept = (
            *self._notes(step),
            *(reading for reading in readings if reading is not None),
            *self._last(step, ending),
        )
        return Report(step, kept) if kept else None

    def _notes(self, step: int) -> Iterator[Reading]:
        for item in self.unresolved:
            if (item.name, item.reason) not in self._told:
                self._told.add((item.name, item.reason))
                yield Reading(step, item.name, findings=(UNRESOLVED,), note=item.reason)
        settled = all(known.settled or not known.rounds for known in self._known.values()) and any(
            known.settled for known in self._known.values()
        )
        if settled and not self._tallies and ("", NO_SITE) not in self._told:
            self._told.add(("", NO_SITE))
            yield Reading(step, findings=(NO_SITE,), note="no activation that sees the input was found")

    def _last(self, step: int, ending: bool) -> Iterator[Reading]:
        if ending:
            also = f", {self.copies} made by copies of the model and not seen" if self.copies else ""
            why = f"; {self._broken}" if self._broken else ""
            yield Reading(step, note=f"detached after {self.passes} passes, {self.watched} watched{also}{why}")

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


class _Hook:
    """What stands on the model. A copy of the model, deep or pickled, gets one that does nothing."""

    __slots__ = ("monitor",)

    def __init__(self, monitor: ActivationMonitor) -> None:
        self.monitor = monitor

    def __deepcopy__(self, _memo: Any) -> Callable[..., None]:
        return _idle

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _idler, ()


class _Before(_Hook):
    __slots__ = ()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.compiler.is_compiling():
            self.monitor._before(module, args, kwargs)  # noqa: SLF001  # its own hook


class _After(_Hook):
    __slots__ = ()

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.monitor._after(module, args, output)  # noqa: SLF001  # its own hook


def _idle(*_given: Any) -> None:
    """What stands on a copy of a watched model in place of the monitor."""


def _idler() -> Callable[..., None]:
    return _idle


def _version(model: nn.Module) -> int:
    """A number that changes whenever an optimizer or a loader writes into the weights."""
    return sum(id(p) if p.is_inference() else id(p) + p._version for p in model.parameters())  # noqa: SLF001  # torch has no public form


def _positive(name: str, value: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise BadOption(f"{name} = {value!r}", "It is a number above 0.")


def _opened(given: str | Path | dict[str, Any]) -> dict[str, Any]:
    """The profiles of a baseline."""
    if not isinstance(given, dict):
        try:
            found = json.loads(Path(given).read_text())
        except OSError as problem:
            raise DataError(f"the baseline {given} cannot be read: {problem.strerror}", "Name another.") from None
        except ValueError as problem:
            raise DataError(f"the baseline {given} is no JSON: {problem}", "Save it by save_baseline.") from None
    else:
        found = given
    if not isinstance(found, dict) or found.get("format") != _FORMAT or not isinstance(found.get("sites"), dict):
        raise DataError("that is no baseline of an ActivationMonitor", "Save it by save_baseline.")
    return {name: profile(name, each) for name, each in found["sites"].items()}
