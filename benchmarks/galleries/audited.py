"""One exhibit through the audit itself, and the cell that keeps what it said."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from actsec import target as targets
from actsec.data import Splits
from actsec.errors import NoVerdict, StoreError, UsageError
from actsec.planning.jobs import headline_threats
from actsec.planning.plan import CHECKED, Trial
from actsec.planning.reading import from_table
from actsec.result import ThreatResult
from actsec.running import preparing, scene, tasks
from actsec.running.store import Store
from actsec.types import Status, Target, Threat
from actsec.verdict import sanity
from actsec.verdict.gathering import gather
from actsec.verdict.threats import mean_share, threat_result
from benchmarks.galleries.exhibits import Exhibit, flagged
from benchmarks.galleries.rooms import Stage
from benchmarks.scenes import ROOT

BUDGET = "quick"
_READ = (*CHECKED, "curve", "minimal", "adaptive")
"""Roles of trials that the checks read."""
_JOBS = ("base", "clean", "probe", "attack", "craft")
_BATTERY = (
    "diagnostics/*.py",
    "running/probe.py",
    *(f"planning/{name}.py" for name in ("budgets", "trials", "checking", "resolving")),
    *(f"verdict/{name}.py" for name in ("sanity", "evidence", "threats")),
)


Said = tuple[Any, ...]
"""What one rule said: rule, status, voids, value, limit, claim."""


class Check(NamedTuple):
    """Of a finding, what tells whether it compared anything."""

    rule: str
    status: Status


@dataclass(frozen=True, slots=True)
class Cell:
    """What the audit said of one exhibit in one room under one seed.

    state, robust and checks are under the headline threat; others hold threat, state, believable and checks of every
    other one. A state of ``refused`` means that the audit would not judge the model at all; errors are of jobs that
    failed; battery is the digest of the code that judged.
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
    checks: tuple[Said, ...] = ()
    others: tuple[tuple[str, str, bool, tuple[Said, ...]], ...] = ()
    attacks: dict[str, float] = field(default_factory=dict)
    errors: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """What the cell is about, and nothing that was measured."""
        return f"{self.gallery}-{self.room}-{self.name}-{self.seed}"

    @property
    def flagged(self) -> bool:
        """Whether the audit said that the number is not what it seems; of an honest one, wherever it compared attacks.

        The smallest change to a model that draws has none that compares attacks: it is unchecked, which accuses nobody.
        """
        told = [(self.state, self.believable)]
        if self.kind == "honest":
            told += [(state, good) for _, state, good, said in self.others if state != "unchecked" or compares(said)]
        return any(
            flagged(state, believable=believable, right=self.right, kind=self.kind) for state, believable in told
        )

    @property
    def fired(self) -> tuple[tuple[str, str, bool], ...]:
        """The rules that did not say ok under the headline threat: rule, status, and whether it voids the number."""
        return spoke(self.checks)

    @property
    def everywhere(self) -> tuple[Said, ...]:
        """What the rules said under all threats."""
        return (*self.checks, *(said for *_, checks in self.others for said in checks))


def compares(checks: tuple[Said, ...]) -> bool:
    """Whether some rule held one attack against another under a threat."""
    return sanity.compared(Check(rule, status) for rule, status, *_ in checks)


def spoke(checks: tuple[Said, ...]) -> tuple[tuple[str, str, bool], ...]:
    """The rules that did not say ok: rule, status, and whether it voids the number."""
    quiet = ("ok", "not_done", "not_applicable")
    return tuple((rule, status, voids) for rule, status, voids, *_ in checks if status not in quiet)


def battery() -> str:
    """A digest of the code that the verdict rests on, less its titles, comments and docstrings.

    Cells of another are judged again.
    """
    digest = hashlib.sha256()
    for pattern in _BATTERY:
        for path in sorted((ROOT / "actsec").glob(pattern)):
            digest.update(path.name.encode() + ast.dump(_Wordless().visit(ast.parse(path.read_text()))).encode())
    return digest.hexdigest()[:12]


class _Wordless(ast.NodeTransformer):
    """Drops docstrings and the titles of rules."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:  # the name is ast's
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:  # the name is ast's
        titled = isinstance(node.target, ast.Name) and node.target.id == "title"
        return None if titled else self.generic_visit(node)


def read(folder: Path) -> list[Cell]:
    """Every cell of a folder."""
    return [_cell(json.loads(path.read_text())) for path in sorted((folder / "cells").glob("*.json"))]


def known(folder: Path, key: str) -> Cell | None:
    """The cell kept under a key, if there is one."""
    path = folder / "cells" / f"{key}.json"
    return _cell(json.loads(path.read_text())) if path.exists() else None


def _cell(record: dict[str, Any]) -> Cell:
    lists = {key: tuple(record[key]) for key in ("right", "clean", "robust", "errors")}
    others = tuple(
        (threat, state, believable, tuple(map(tuple, checks))) for threat, state, believable, checks in record["others"]
    )
    return Cell(**{**record, **lists, "checks": tuple(map(tuple, record["checks"])), "others": others})


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
    images = min(room.images, exhibit.images or room.images)
    about = (gallery, room.name, exhibit.name, exhibit.kind, stage.seed, exhibit.right)
    cell = Cell(*about, battery(), room.eps, images, state="", believable=True)
    target = targets.load(exhibit.make(stage).eval(), classes=stage.test.classes)
    torch.manual_seed(stage.seed)  # of frauds that draw behind the audit's back: a cell is the same on every run
    where = folder / "audits" / cell.key
    try:
        prepared, store = _audited(target, stage, images, where)
        (seen,) = gather(prepared.plan, prepared.facts, store)
        labels, classes = prepared.scene.test.y, prepared.scene.test.classes
        found, *others = (
            threat_result(seen, prepared.plan, threat, labels, classes, "")
            for threat in headline_threats(prepared.plan)
            if threat.goal == "misclassify"
        )
    except (UsageError, NoVerdict) as refusal:
        return dataclasses.replace(cell, state="refused", believable=False, why=str(refusal), seconds=_since(began))
    finally:
        if not keep:
            shutil.rmtree(where, ignore_errors=True)
    clean = mean_share(1 - seen.clean_wrong)
    return dataclasses.replace(
        cell,
        state=found.state,
        believable=found.believable,
        why=found.why,
        clean=(clean.k, clean.n),
        robust=(found.worst_case.k, found.worst_case.n),
        checks=_checks(found),
        attacks={attack.attack: attack.still_correct.value for attack in found.attacks},
        others=tuple((each.threat, each.state, each.believable, _checks(each)) for each in others if each.checks),
        errors=seen.errors,
        seconds=_since(began),
    )


def _since(began: float) -> float:
    return round(time.process_time() - began, 1)


def _checks(found: ThreatResult) -> tuple[Said, ...]:
    return tuple(
        (check.rule, check.status, check.voids, check.numbers.get("value"), check.numbers.get("limit"), check.claim)
        for check in found.checks
    )


def _audited(target: Target, stage: Stage, images: int, where: Path) -> tuple[preparing.Prepared, Store]:
    """The plan and the outcomes of ``actsec audit`` at BUDGET, less what no check reads."""
    named = {"model": f"{scene.OBJECT}{stage.room.name}", "data": f"{scene.OBJECT}{stage.test.name}"}
    options = {"budget": BUDGET, "eps": stage.room.eps, "samples": images, "seed": stage.seed}
    plan = from_table({**named, **options, "defenses": [], "corruptions": []})
    given = scene.Given(target, Splits(stage.test))
    every = preparing.resolved(scene.load(plan, given)).plan.attacks
    read = tuple(trial for trial in every if trial.role in _READ and not _aside(trial))
    prepared = preparing.prepare(plan.having(attacks=read), given)
    store = _store(where, prepared)
    for job in prepared.jobs:
        if job.kind in _JOBS and not store.done(job.id):
            tasks.run(job, store.root, prepared.scene)
    return prepared, store


def _aside(trial: Trial) -> bool:
    """Whether a trial is under a threat that no check needs, or a second search for the smallest change."""
    norm = Threat.parse(trial.threat).norm
    return norm not in ("linf", "l2") or trial.attack.startswith("carlini_wagner")


def _store(where: Path, prepared: preparing.Prepared) -> Store:
    """The audit's folder, with what was kept there but for the probe, whose questions are part of the battery."""
    try:
        store = Store.create(where, prepared.plan, prepared.facts)
    except StoreError:  # another battery asked for other attacks: those that are equal have equal ids
        before = where.rename(where.with_name(f"{where.name}.before"))
        store = Store.create(where, prepared.plan, prepared.facts)
        for job in prepared.jobs:
            for path in (before / "outcomes").glob(f"{job.id}.*"):
                shutil.copy(path, where / "outcomes" / path.name)
        shutil.rmtree(before)
    for job in prepared.jobs:
        if job.kind == "probe":
            for path in (where / "outcomes").glob(f"{job.id}.*"):
                path.unlink()
    return store
