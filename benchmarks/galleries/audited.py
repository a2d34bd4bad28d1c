"""One exhibit through the audit itself, and the cell that keeps what it said."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import actsec
from actsec import runner, scene
from actsec import target as targets
from actsec.data import Splits
from actsec.errors import ActsecError, StoreError
from actsec.plan import from_table
from actsec.result import ThreatResult
from actsec.store import Store
from actsec.types import Target
from benchmarks.galleries.exhibits import Exhibit, flagged
from benchmarks.galleries.rooms import Stage
from benchmarks.scenes import ROOT, Whole

BUDGET = "quick"
_BATTERY = ("diagnostics/*.py", "probe.py", "budgets.py", "verdict/sanity.py", "verdict/threats.py")


@dataclass(frozen=True, slots=True)
class Cell:
    """What the audit said of one exhibit in one room under one seed.

    checks are [rule, status, voids, value, limit, claim]; refused is why the audit would not judge the model at all;
    battery is the digest of the code that judged.
    """

    gallery: str
    room: str
    name: str
    kind: str
    seed: int
    right: tuple[str, ...]
    battery: str
    eps: float
    images: int
    state: str
    believable: bool
    why: str = ""
    clean: tuple[int, int] = (0, 0)
    robust: tuple[int, int] = (0, 0)
    checks: tuple[tuple[Any, ...], ...] = ()
    attacks: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """What the cell is about, and nothing that was measured."""
        return f"{self.gallery}-{self.room}-{self.name}-{self.seed}"

    @property
    def flagged(self) -> bool:
        """Whether the audit said that the number is not what it seems."""
        return flagged(self.state, believable=self.believable, right=self.right, kind=self.kind)

    @property
    def fired(self) -> tuple[tuple[str, str, bool], ...]:
        """The rules that did not say ok: rule, status, and whether it voids the number."""
        quiet = ("ok", "not_done", "not_applicable")
        return tuple((rule, status, voids) for rule, status, voids, *_ in self.checks if status not in quiet)


def battery() -> str:
    """A digest of the code that the verdict rests on: cells of another are judged again."""
    digest = hashlib.sha256()
    for pattern in _BATTERY:
        for path in sorted((ROOT / "actsec").glob(pattern)):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def read(folder: Path) -> list[Cell]:
    """Every cell of a folder."""
    return [_cell(json.loads(path.read_text())) for path in sorted((folder / "cells").glob("*.json"))]


def known(folder: Path, key: str) -> Cell | None:
    """The cell kept under a key, if there is one."""
    path = folder / "cells" / f"{key}.json"
    return _cell(json.loads(path.read_text())) if path.exists() else None


def _cell(record: dict[str, Any]) -> Cell:
    lists = {key: tuple(record[key]) for key in ("right", "clean", "robust")}
    return Cell(**{**record, **lists, "checks": tuple(map(tuple, record["checks"]))})


def write(folder: Path, cell: Cell) -> None:
    """Keep a cell, whole or not at all."""
    path = folder / "cells" / f"{cell.key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(dataclasses.asdict(cell), indent=1) + "\n")
    beside.replace(path)


def judged(gallery: str, exhibit: Exhibit, stage: Stage, folder: Path, *, keep: bool = False) -> Cell:
    """Audit an exhibit with the attacks that the battery reads, at BUDGET.

    With keep the audit's own folder stays, and another battery judges the attacks in it again without running them.
    """
    began, room = time.process_time(), stage.room
    about = (gallery, room.name, exhibit.name, exhibit.kind, stage.seed, exhibit.right)
    cell = Cell(*about, battery(), room.eps, room.images, state="", believable=True)
    made = exhibit.make(stage)
    target = made if isinstance(made, Target) else targets.load(Whole(made.eval()), classes=stage.test.classes)
    torch.manual_seed(stage.seed)  # of frauds that draw behind the audit's back: a cell is the same on every run
    where = folder / "audits" / cell.key
    try:
        result = _audit(target, stage, where)
    except ActsecError as refusal:
        return dataclasses.replace(cell, state="refused", believable=False, why=str(refusal), seconds=_since(began))
    finally:
        if not keep:
            shutil.rmtree(where, ignore_errors=True)
    (variant,) = result.variants
    found = next(threat for threat in variant.threats if threat.checks)
    clean = variant.clean.accuracy
    return dataclasses.replace(
        cell,
        state=found.state,
        believable=found.believable,
        why=found.why,
        clean=(clean.k, clean.n),
        robust=(found.worst_case.k, found.worst_case.n),
        checks=_checks(found),
        attacks={attack.attack: attack.still_correct.value for attack in found.attacks},
        seconds=_since(began),
    )


def _since(began: float) -> float:
    return round(time.process_time() - began, 1)


def _checks(found: ThreatResult) -> tuple[tuple[Any, ...], ...]:
    return tuple(
        (check.rule, check.status, check.voids, check.numbers.get("value"), check.numbers.get("limit"), check.claim)
        for check in found.checks
    )


def _audit(target: Target, stage: Stage, where: Path) -> actsec.result.Result:
    """What ``actsec.audit`` does: the plan's one attack is joined by all that the checks read."""
    room = stage.room
    plan = from_table(
        {
            "model": f"{scene.OBJECT}{room.name}",
            "data": f"{scene.OBJECT}{stage.test.name}",
            "attacks": ["fgsm"],
            "defenses": [],
            "corruptions": [],
            "budget": BUDGET,
            "eps": room.eps,
            "samples": room.images,
            "seed": stage.seed,
        }
    )
    prepared = runner.prepare(plan, scene.Given(target, Splits(stage.test)))
    try:
        store = Store.create(where, prepared.plan, prepared.facts)
    except StoreError:  # another battery asked for other attacks: those that are equal have equal ids
        before = where.rename(where.with_name(f"{where.name}.before"))
        store = Store.create(where, prepared.plan, prepared.facts)
        for job in prepared.jobs:
            for path in (before / "outcomes").glob(f"{job.id}.*"):
                shutil.copy(path, where / "outcomes" / path.name)
        shutil.rmtree(before)
    for job in prepared.jobs:  # what a probe asks is part of the battery, and no part of a job's id
        if job.kind == "probe":
            for path in (where / "outcomes").glob(f"{job.id}.*"):
                path.unlink()
    return runner.run_prepared(prepared, store, executor="serial", workers=1, tell=lambda _: None)
