"""What is known of a watched model's calls so far, and what each window of passes showed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from actsec.activations import Unresolved
from actsec.activations.listing import Sites, listed
from actsec.health.drift import WINDOWS
from actsec.health.readings import LONG, NO_SITE, UNRESOLVED, Profile, Reading, Tally
from actsec.monitoring.seeing import ROUNDS, Known, Looker, SiteFinder


@dataclass(frozen=True, slots=True)
class Report:
    """What a window showed: a reading a site in call order, and notes. ``findings`` are the readings that have any."""

    step: int
    readings: tuple[Reading, ...]

    @property
    def findings(self) -> tuple[Reading, ...]:
        return tuple(reading for reading in self.readings if reading.findings)


class Record:
    """Sites and their tallies over windows of ``window`` rows; ``given`` are the profiles of a baseline."""

    def __init__(self, model: nn.Module, window: int, given: dict[str, Profile]) -> None:
        self.model, self.window, self.given = model, window, given
        self.tallies: dict[str, Tally] = {}
        self.known = {True: Known(), False: Known()}
        self._unresolved: dict[str, Unresolved] = {}
        self._failed: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()
        self._looked, self._mode, self._weights = 0, False, -1
        self._rows = {True: 0, False: 0}  # watched, in train and in eval mode

    @property
    def unresolved(self) -> tuple[Unresolved, ...]:
        """What acts as an activation and is not watched, and why."""
        failed = (Unresolved(name, reason) for name, reason in self._failed.items())
        return (*self._unresolved.values(), *failed)

    def take(self, follower: Looker | SiteFinder, training: bool, rows: int, output: Any, step: int) -> Report | None:
        """Take in what a watched pass of so many rows showed; the report, when a window is full."""
        seen = follower.seen
        if isinstance(follower, SiteFinder):
            self._learn(follower, training, rows, output)
        elif seen.strange:  # the way through the model depends on the input: its calls are looked for anew
            self.known[training].strange |= seen.strange
            self.known[training].settled = False
        if not seen.looks and not seen.failed:
            return None
        report = self.close(step) if self._looked and training != self._mode else None
        self._mode = training
        weights = _version(self.model)
        if weights != self._weights:
            self._weights = weights
            for tally in self.tallies.values():
                tally.forget()
        for site, each in seen.looks:
            self.tallies[site.name].add(each, still=not training)
            self._failed.pop(site.name, None)
        self._failed.update(seen.failed)
        looked = max((each.rows for _, each in seen.looks), default=0)
        self._looked += looked
        self._rows[training] += looked
        return self.close(step) if self._looked >= self.window else report

    def _learn(self, finder: SiteFinder, training: bool, rows: int, output: Any) -> None:
        """Sites of a pass. Where some call seems not to depend on the input, the next pass is asked as well."""
        known = self.known[training]
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

    def _take(self, found: Sites, known: Known) -> None:
        active = {site.name: site for site in found.active}
        for name in [site.name for site in found if site.name not in active]:
            known.left_out.add(name)
        for name, site in active.items():
            known.sites[name] = site
            base = self.given.get(name)
            if base is not None and base.kind != site.kind:
                why = f"the baseline's is {base.kind}, the model's {site.kind}: no drift is measured"
                self._unresolved[f"{name}!"] = Unresolved(name, why)
                base = None
            self.tallies.setdefault(name, Tally(site, self.window, base, given=base is not None))
        for item in found.unresolved:
            self._unresolved[f"{item.name}: {item.reason}"] = item
        for name in self.given.keys() - self.tallies.keys():
            self._unresolved[f"{name}?"] = Unresolved(name, "the baseline has it, the model was not seen to call it")
        for name in self.given.keys() & self.tallies.keys():
            self._unresolved.pop(f"{name}?", None)

    def close(self, step: int, last: str = "") -> Report | None:
        """End the window. ``last`` is what is said of the whole watch at its end, with what could not be judged."""
        readings = [tally.read(step, self._mode) for tally in self.tallies.values()]
        self._looked = 0
        notes = tuple(self._notes(step))
        ending = (Reading(step, note="; ".join((last, *self._unjudged()))),) if last else ()
        kept = (*notes, *(reading for reading in readings if reading is not None), *ending)
        return Report(step, kept) if kept else None

    def _unjudged(self) -> Iterator[str]:
        """What so few rows could not show."""
        nothing_to_judge = ("", NO_SITE) in self._told
        if not nothing_to_judge and not any(tally.judged for tally in self.tallies.values()):
            yield f"drift could not be judged: {self._no_drift()}"
        mortal = [tally for tally in self.tallies.values() if tally.since is not None]
        if mortal and (rows := max(tally.rows for tally in mortal)) < LONG:
            yield f"permanently dead units could not be judged: that takes {LONG} rows, {rows} were watched"

    def _no_drift(self) -> str:
        """Why no window was held against a baseline."""
        if not self.tallies:
            return "no call was looked at"
        if not self._rows[False]:
            return f"no row was watched in eval mode ({self._rows[True]} in train mode)"
        if all(tally.base is None for tally in self.tallies.values()):
            held = max(tally.held for tally in self.tallies.values())
            return f"a baseline takes {WINDOWS * self.window} rows at fixed weights, {held} were watched"
        return f"no window of {self.window} rows was watched after the baseline"

    def _notes(self, step: int) -> Iterator[Reading]:
        for item in self.unresolved:
            if (item.name, item.reason) not in self._told:
                self._told.add((item.name, item.reason))
                yield Reading(step, item.name, findings=(UNRESOLVED,), note=item.reason)
        settled = all(known.settled or not known.rounds for known in self.known.values()) and any(
            known.settled for known in self.known.values()
        )
        if settled and not self.tallies and ("", NO_SITE) not in self._told:
            self._told.add(("", NO_SITE))
            yield Reading(step, findings=(NO_SITE,), note="no activation that sees the input was found")


def _version(model: nn.Module) -> int:
    """A number that changes whenever an optimizer or a loader writes into the weights."""
    return sum(id(p) if p.is_inference() else id(p) + p._version for p in model.parameters())  # noqa: SLF001  # torch has no public form
