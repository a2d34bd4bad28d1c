"""Run suites: prepare everyone, one run each for warm-up, counts and memory, then timed runs in turns A B C A B C.

A first run that is long, or the only one, is timed as well. A contender stops early when it has used up its cap of
seconds. Every run is stored at once, and what is stored is not run again.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor

from actsec.spec import parse
from benchmarks.judging import judge
from benchmarks.measuring import counted, peak_memory, timed
from benchmarks.peers import Attempt, Missing, Question, prepare
from benchmarks.results import Cell, Results
from benchmarks.scenes import Absent, Scene, parameters, scene
from benchmarks.suites import Entry, Suite

LONG = 5.0
"""Seconds from which on a run needs no warm-up."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line decides for all suites."""

    repeats: int = 5
    cap: float = 60.0
    device: str = "cpu"


@dataclass(slots=True)
class Contender:
    """A cell with what is needed to run it; no attempt when it cannot be run."""

    cell: Cell
    entry: Entry
    question: Question
    attempt: Attempt | None = None


@dataclass(slots=True)
class Progress:
    """How far we are: minutes of the suites to come as their table says, of this one from its own times."""

    later: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def say(self, text: str, left: float) -> None:
        total = left + self.later
        clock = f"{(time.perf_counter() - self.started) / 60:5.1f} min, about {total / 60:.0f} left"
        print(f"[{clock}] {text}", flush=True)


def run(suites: dict[str, Suite], results: Results, options: Options) -> None:
    """Run every suite; what cannot be run is stored with the reason."""
    progress = Progress()
    minutes = [suite.minutes for suite in suites.values()]
    for at, (name, suite) in enumerate(suites.items()):
        progress.later = 60 * sum(minutes[at + 1 :])
        print(f"\n== {name}: {suite.about}", flush=True)
        for where, images in suite.grid:
            try:
                there = scene(where, results.folder / "models", options.device)
            except Absent as why:
                print(f"   skipped: {why}", flush=True)
                continue
            _meet(suite, there, images, results, options, progress)
            results.save()


def cell_of(suite: Suite, entry: Entry, where: str, images: int) -> Cell:
    """The empty cell of an entry: what it is about."""
    n = images if entry.images is None else min(entry.images, images)
    return Cell(
        scene=where,
        norm=suite.norm,
        eps=list(suite.eps),
        images=n,
        batch=suite.batch,
        peer=entry.peer,
        spec=entry.spec,
        seed=entry.seed,
        settle=entry.settle,
        stand_in=entry.stand_in,
    )


def _meet(suite: Suite, there: Scene, images: int, results: Results, options: Options, progress: Progress) -> None:
    """All contenders of a suite on one scene."""
    contenders = []
    x, y = there.first(images, correct=suite.correct)
    for entry in suite.entries:
        contender = _contender(suite, entry, there, x, y, results, options)
        if contender.cell.done:
            progress.say(f"{contender.cell.key}: {contender.cell.message or 'stored'}", 0)
        else:
            contenders.append(contender)
    for contender in contenders:
        if not contender.cell.sizes:
            _guarded(contender, results, _first)
            _told(contender.cell, options, progress, contenders)
    rounds = max((c.cell.wanted for c in contenders), default=0)
    for turn in range(rounds):
        for contender in contenders:
            cell = contender.cell
            if cell.done or len(cell.seconds) > turn:
                continue
            _guarded(contender, results, _timed)
            _told(cell, options, progress, contenders)


def _used_up(cell: Cell, options: Options) -> bool:
    return bool(cell.seconds) and sum(cell.seconds) >= options.cap and len(cell.seconds) < cell.wanted


def _told(cell: Cell, options: Options, progress: Progress, contenders: list[Contender]) -> None:
    """Say how it went; who has used up its seconds is not run again."""
    cell.capped = _used_up(cell, options)
    runs = f"run {len(cell.seconds)} of {cell.wanted}: {cell.seconds[-1]:.3g} s" if cell.seconds else "counted"
    progress.say(f"{cell.key}: {cell.message or runs}", _left(contenders))


def _contender(
    suite: Suite, entry: Entry, there: Scene, x: Tensor, y: Tensor, results: Results, options: Options
) -> Contender:
    """The stored cell of an entry, and its attempt unless nothing is left to do."""
    cell = cell_of(suite, entry, there.name, len(x))
    cell = results.cell(cell)
    cell.message = ""  # what failed or was missing last time is tried again
    cell.wanted = max(cell.wanted, entry.runs or suite.repeats or options.repeats)
    cell.capped = _used_up(cell, options)
    cell.parameters = parameters(there.model)
    question = Question(
        model=there.model,
        x=x[: cell.images],
        y=y[: cell.images],
        classes=there.classes,
        norm=suite.norm,
        eps=suite.eps,
        batch=suite.batch,
        seed=entry.seed,
        settle=entry.settle,
        stand_in=entry.stand_in,
    )
    contender = Contender(cell, entry, question)
    if not cell.done:
        _guarded(contender, results, _prepared)
    return contender


def _prepared(contender: Contender) -> None:
    contender.attempt = prepare(contender.entry.peer, parse(contender.entry.spec), contender.question)


def _first(contender: Contender) -> None:
    """The first run: warm-up, counts, memory, and the images that are judged.

    A long run needs no warming up, and the hooks' microseconds are nothing to it: it is timed as well.
    """
    cell, question = contender.cell, contender.question
    assert contender.attempt is not None, cell.key
    with counted(question.model) as passes, peak_memory(question.x.device) as peak:
        seconds, found = timed(contender.attempt, question.seed, question.x.device)
    _enter(contender, found, passes.forwards, passes.backwards, peak.mib)
    cell.counted_while_timed = seconds >= LONG or cell.wanted == 1
    if cell.counted_while_timed:
        cell.seconds.append(seconds)


def _timed(contender: Contender) -> None:
    """One timed run and nothing else."""
    question = contender.question
    assert contender.attempt is not None, contender.cell.key
    contender.cell.seconds.append(timed(contender.attempt, question.seed, question.x.device)[0])


def _enter(contender: Contender, found: list[Tensor], forwards: int, backwards: int, memory: float | None) -> None:
    """Judge what came back and write the cell."""
    q, cell = contender.question, contender.cell
    judged = [
        judge(q.model, q.x, q.y, images, q.norm, eps, q.batch)
        for images, eps in zip(found, q.eps or (None,), strict=True)
    ]
    cell.sizes = [one.sizes for one in judged]
    cell.violations = sum(one.violations for one in judged)
    cell.forwards, cell.backwards = forwards / len(q.x), backwards / len(q.x)
    cell.memory = None if memory is None else round(memory, 1)


def _guarded(contender: Contender, results: Results, act: object) -> None:
    """Do it quietly; a library that is missing or fails says so in its cell and stops nobody else."""
    assert callable(act)
    try:
        with _quiet():
            act(contender)
    except Missing as why:
        contender.cell.message = str(why)
    except Exception as error:  # noqa: BLE001  # a library raises whatever it likes
        contender.cell.message = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    results.save()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Libraries print progress bars and warnings over the table."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _left(contenders: list[Contender]) -> float:
    """Seconds still to come in this meeting, from the times known so far."""
    known = [c.cell.median for c in contenders if c.cell.seconds]
    guess = sum(known) / len(known) if known else 0.0
    left = 0.0
    for contender in contenders:
        cell = contender.cell
        if not cell.done:
            each = guess if math.isnan(cell.median) else cell.median
            left += each * (cell.wanted - len(cell.seconds))
    return left
