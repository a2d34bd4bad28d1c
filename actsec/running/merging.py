"""Putting the parts of a run together: what ``actsec merge`` does.

Every outcome is verified by its digest and told apart by the hash of what made it. Where two runs hold the same job,
they must hold the same bytes; an outcome whose weights its own run has lost is not taken, for nothing tells what it was
measured on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from actsec.errors import StoreError
from actsec.planning.jobs import plan_id
from actsec.planning.parts import Part
from actsec.planning.plan import Facts, Plan
from actsec.result import Result
from actsec.running.store import Store, reading
from actsec.types import Job


@dataclass(frozen=True, slots=True)
class Merged:
    """A run folder put together, what its outcomes come to, and in words what no run had."""

    store: Store
    result: Result
    missing: tuple[str, ...]


def merge(runs: Sequence[str | Path], out: str | Path) -> Merged:
    """Copy the outcomes of runs of one plan into the run folder ``out`` and write its report.

    What no run holds is missing in a partial report; ``actsec resume OUT`` makes it. Raises StoreError for runs of
    other plans, models, data or versions, and for two outcomes of one job.
    """
    from actsec.running import finishing, preparing

    stores = [Store.open(Path(run).resolve()) for run in runs]
    whole, place = _one_plan(stores), Path(out).resolve()
    with stores[0].at_home():
        prepared = preparing.prepare(whole)
        if plan_id(prepared.plan, prepared.facts) != plan_id(whole, stores[0].facts()):
            raise StoreError(
                f"{stores[0].root} was run on another model, other data or other versions than are here",
                "Merge where the model and the data of the runs lie.",
            )
        merged = Store.create(place, prepared.plan, prepared.facts)
        with merged.held():
            missing = _copy(prepared.jobs, stores, merged)
            complete = all(merged.done(job.id) for job in prepared.jobs)
            with reading(place):
                return Merged(merged, finishing.finish(prepared, merged, complete=complete), missing)


def _one_plan(stores: Sequence[Store]) -> Plan:
    """The plan of all the runs. Raises StoreError, naming the run that differs and in what."""
    if not stores:
        raise StoreError("no runs to merge", "Name the folders: actsec merge runs/a-* --out runs/a.")
    first, plan, facts = stores[0], stores[0].plan(), stores[0].facts()
    for store in stores:
        own, known = store.plan(), store.facts()
        if (found := plan_id(own, known)) != store.plan_id():
            raise StoreError(f"{store.root}: plan.toml or run.json was edited", "Run this part again.")
        if found != plan_id(plan, facts):
            what = " and ".join(_different(facts, known)) or "plan"
            raise StoreError(f"{store.root} holds another run than {first.root}: its {what} differs", "Leave it out.")
        for asked in ("gates", "positive"):
            if getattr(own, asked) != getattr(plan, asked):
                raise StoreError(
                    f"{store.root} and {first.root} differ in {asked}",
                    "Resume one of them with the other's, or merge first and give --gate to `actsec resume`.",
                )
    return plan


def _different(first: Facts, second: Facts) -> list[str]:
    names = [field.name for field in dataclasses.fields(first)]
    return [name for name in names if getattr(first, name) != getattr(second, name)]


def _copy(every: Sequence[Job], stores: Sequence[Store], merged: Store) -> tuple[str, ...]:
    """Copy each job's outcome, dependencies first; what is missing, in words."""
    held = [{job.id for job in every if store.done(job.id)} for store in stores]
    missing = []
    for job in every:
        having = [s for s, done in zip(stores, held, strict=True) if job.id in done and done.issuperset(job.needs)]
        if having:
            files = having[0].files(job.id)
            for other in having[1:]:
                if _measured(other.files(job.id)) != _measured(files):
                    raise StoreError(
                        f"{having[0].root} and {other.root} hold different outcomes of {job.label} ({job.id})",
                        "They ran on different hardware or libraries: run the parts again on machines of one kind.",
                    )
            merged.put_files(files)
        elif failed := next((store for store in stores if store.get(job.id) is not None), None):
            # An error is told as such; an outcome whose weights are lost is not taken.
            if job.id not in set().union(*held):
                merged.put_files(failed.files(job.id))
            missing.append(job)
        elif not merged.done(job.id):
            missing.append(job)
    return (*_absent(stores, bool(missing)), *(f"{job.label} ({job.id})" for job in missing))


def _measured(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files that equal jobs leave equal: all but what it cost."""
    return {name: content for name, content in files.items() if not name.startswith("costs/")}


def _absent(stores: Sequence[Store], lacking: bool) -> tuple[str, ...]:
    """The parts that were not given, where something is missing and the runs are parts."""
    parts = [Part.parse(text) for store in stores if (text := store.part()) is not None]
    if not lacking or len({part.of for part in parts}) != 1:
        return ()
    given = {part.number for part in parts}
    return tuple(f"--shard {n}/{parts[0].of} was not given" for n in range(1, parts[0].of + 1) if n not in given)
