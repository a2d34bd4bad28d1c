"""From finished outcomes to a Result: variants first, then what they say together."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import actsec
from actsec import data, registry
from actsec.data.tables import cells as changed_cells
from actsec.loading import executed
from actsec.planning.jobs import headline_threats, plan_id, rows_tested
from actsec.planning.plan import Facts, Plan
from actsec.reports.answers import headline
from actsec.reports.checklist import checklist
from actsec.reports.evidence import evidence
from actsec.result import (
    SCHEMA,
    Calibration,
    Cell,
    Clean,
    Column,
    Data,
    Example,
    Result,
    Share,
    SiteHealth,
    SplitInfo,
    ThreatResult,
    Variant,
)
from actsec.running.scene import Scene
from actsec.running.second_opinion import opinions
from actsec.running.store import Store
from actsec.search import masks
from actsec.spec import parse
from actsec.types import Threat, chain_text
from actsec.verdict import acceptance, calibration, statistics
from actsec.verdict.advice import advise
from actsec.verdict.certified import certified
from actsec.verdict.corrupted import corrupted
from actsec.verdict.effects import compare, pair, strongest
from actsec.verdict.gates import gate_results
from actsec.verdict.gathering import FOUND, Gathered, gather
from actsec.verdict.killed import kills
from actsec.verdict.miscalibrated import miscalibrations
from actsec.verdict.nonsense import nonsense, pictured
from actsec.verdict.policy import exit_code, heading, problems
from actsec.verdict.rounding import rounding
from actsec.verdict.threats import mean_share, threat_result

Array = NDArray[Any]
LIMITS = (
    "Robust accuracy is an upper bound: what these attacks at this budget left. It is not a certificate.",
    "Only the threats listed were tried. Nothing is said about other changes: patches, other norms, chosen rotations.",
    "Corruptions are what happens by itself: nobody looked for the worst of them.",
    "Intervals cover the sampling of test images, not the choice of training seed.",
)


def assemble(scene: Scene, facts: Facts, store: Store, *, complete: bool, echo: Any) -> tuple[Result, dict[str, Array]]:
    """The result of a run and the images of its examples (original, attacked). echo(threat) words an eps."""
    plan = scene.plan
    gathered = gather(plan, facts, store)
    y, classes = scene.test.y, scene.test.classes
    made = tuple(_variant(g, gathered[0], plan, y, classes, echo) for g in gathered)
    made = tuple(
        dataclasses.replace(
            v,
            corruptions=corrupted(g, plan, facts.shape),
            nonsense=nonsense(g, classes),
            certificate=certified(g, plan, facts, y),
            miscalibrations=miscalibrations(g, y, plan.seed),
        )
        for g, v in zip(gathered, made, strict=True)
    )
    pairs = tuple(pair(gathered[0], g, plan, y, made) for g in gathered)
    defended = (both for both in pairs if both is not None and both.other.variant.chain)
    comparisons = tuple(row for both in defended for row in compare(both))
    examples, images = _examples(gathered[0], scene, store)
    first, drawn = pictured(gathered[0], made[0].nonsense, classes)
    made, images = (dataclasses.replace(made[0], nonsense=first), *made[1:]), images | drawn
    overlaps = data.disjoint(scene.splits.train, scene.splits.calibration, scene.test)
    found, day = problems(plan, made, gathered, overlaps), acceptance.today()
    rules, accepted = acceptance.active(plan, day), acceptance.records(plan, day, made, found)
    judged = acceptance.excused(made, rules)
    gates = acceptance.told(gate_results(plan, judged), gate_results(plan, made), accepted)
    open_problems = tuple(p for p in problems(plan, judged, gathered, overlaps) if p.rule not in rules)
    asked = opinions(gathered[0], plan)
    result = Result(
        schema=SCHEMA,
        actsec=actsec.__version__,
        plan={key: value for key, value in dataclasses.asdict(plan).items() if value is not None},
        plan_id=plan_id(plan, facts),
        command="actsec audit plan.toml",
        status="complete" if complete else "partial",
        headline=(),
        heading=heading(made),
        model=_model(plan, facts, gathered[0], scene),
        data=_data(scene, facts),
        variants=made,
        comparisons=comparisons,
        advice=advise(pairs, gathered, plan, made, _rows(scene.splits.train)),
        problems=found,
        gates=gates,
        not_done=_not_done(gathered),
        examples=examples,
        exit_code=exit_code(gates, open_problems, judged, complete=complete),
        limits=(*LIMITS, *filter(None, [rounding(gathered[0])]), *scene.notes),
        second_opinions=asked,
        mask="" if scene.mask is None else masks.words(scene.mask),
        accepted=accepted,
        executed=executed.of(plan),
    )
    result = dataclasses.replace(result, checklist=checklist(result), evidence=evidence(result))
    told = (*headline(result), *_refused(made), *acceptance.lines(accepted))
    return dataclasses.replace(result, headline=told), images


def _rows(split: data.Dataset | None) -> int:
    return 0 if split is None else len(split)


def _variant(g: Gathered, base: Gathered, plan: Plan, y: Array, classes: tuple[str, ...], echo: Any) -> Variant:
    numbers = g.fit.numbers if g.fit else {}
    defenses = [registry.build("defenses", spec) for spec in g.variant.chain]
    faced = [t for t in headline_threats(plan) if g.clean and rows_tested(plan, g.variant.name, t)]
    measured = (threat_result(g, plan, t, y, classes, echo(t), base) for t in faced)
    threats = _held_to_the_first(tuple(missed(result, plan.positive) for result in measured))
    weights = g.fit.arrays.get("weights") if g.fit else None
    return Variant(
        id=g.variant.name,
        title=g.variant.name,
        base=g.variant.base,
        chain=chain_text([registry.brief("defenses", spec) for spec in g.variant.chain]),
        activation=_activation(g),
        audited=g.variant.audited,
        kind=" + ".join(dict.fromkeys(d.kind for d in defenses)),
        claims=" ".join(d.claims for d in defenses),
        parameters=int(g.clean.numbers["parameters"]) if g.clean else 0,
        fingerprint="" if weights is None else hashlib.sha256(weights.tobytes()).hexdigest(),
        fit={key: numbers[key] for key in ("fit", "training", "architecture") if key in numbers},
        notes=(*numbers.get("notes", ()), *g.errors),
        clean=missed(_clean(g, y, classes), plan.positive),
        calibration=_calibrations(g, plan, y),
        threats=threats,
        sites=tuple(SiteHealth(**site) for site in g.probe.numbers["sites"]) if g.probe else (),
        unresolved=tuple(g.probe.numbers["unresolved"]) if g.probe else (),
        kills=kills(g),
    )


def _refused(made: Sequence[Variant]) -> tuple[str, ...]:
    """What the audited model's detector refuses, in words."""
    found = next(v for v in made if v.audited).clean.rejected
    if found is None:
        return ()
    told = f"Its detector refuses {100 * found.value:.1f} % of untouched inputs ({found.k} of {found.n}), which count"
    return (f"{told} as not correct; an attack succeeds when it is wrong and accepted.",)


Measured = TypeVar("Measured", Clean, ThreatResult)


def missed(measured: Measured, positive: str | None) -> Measured:
    """The same with the miss rate of the positive class: its examples that are called something else."""
    found = next((c.share for c in measured.per_class if c.name == positive), None)
    if found is None:
        return measured
    return dataclasses.replace(measured, missed=statistics.share(found.n - found.k, found.n))


def _held_to_the_first(threats: tuple[ThreatResult, ...]) -> tuple[ThreatResult, ...]:
    """The checks are made at the first threat; a model that hides its gradients there is not believed elsewhere."""
    if not threats or (threats[0].believable and threats[0].state != "masked"):
        return threats
    why = f"the checks at {threats[0].threat} found: {threats[0].why or 'hidden gradients'}"
    others = (t if not t.believable else dataclasses.replace(t, believable=False, why=why) for t in threats[1:])
    return (threats[0], *others)


def _activation(g: Gathered) -> str:
    kinds = [site["kind"] for site in g.probe.numbers["sites"]] if g.probe else []
    return ", ".join(dict.fromkeys(kinds)) or "unknown"


def _clean(g: Gathered, y: Array, classes: tuple[str, ...]) -> Clean:
    if g.clean is None:
        return Clean(Share(0, 0, 0.0, 0.0, 0.0), 0.0, (), "not measured")
    found = statistics.clean(g.clean_wrong < 0.5, y, classes)
    if "test_rejected" in g.clean.arrays:
        found = dataclasses.replace(found, rejected=mean_share(g.clean.arrays["test_rejected"].astype(np.float64)))
    # A model that draws is as accurate as its draws are on average, not as their majority.
    return dataclasses.replace(found, accuracy=mean_share(1 - g.clean_wrong)) if g.stochastic else found


def _calibrations(g: Gathered, plan: Plan, y: Array) -> tuple[Calibration, ...]:
    """Confidence on untouched images, and on what the strongest attack at the headline threat left."""
    if g.clean is None or not np.isfinite(g.clean.arrays["test_logits"]).all():
        return ()
    found = [_calibration(g, g.clean.arrays["test_logits"], y, "clean", plan.seed)]
    worst = strongest(g, Threat("linf", plan.eps))
    if worst is not None:
        logits = worst.arrays["logits"]
        if np.isfinite(logits).all():
            name = str(registry.brief("attacks", parse(worst.trial.attack)))
            condition = f"attacked: {name} at {worst.trial.threat}"
            found.append(_calibration(g, logits, y[: len(logits)], condition, plan.seed))
    return tuple(found)


def _calibration(g: Gathered, logits: Array, y: Array, condition: str, seed: int) -> Calibration:
    probabilities = calibration.softmax(logits)
    decided = calibration.decided(probabilities, g.threshold)
    return calibration.calibration(probabilities, y, condition, seed=seed, decided=decided)


def _examples(g: Gathered, scene: Scene, store: Store) -> tuple[tuple[Example, ...], dict[str, Array]]:
    """A few attacked images of the audited model: two found by each kind of attack, those least shown before."""
    rows: list[Example] = []
    images: list[tuple[Array, Array]] = []
    if g.clean is None:
        return (), {}
    before = calibration.softmax(g.clean.arrays["test_logits"])
    times: Counter[int] = Counter()
    shown = [t for t in g.tried if t.usable and t.trial.role in ("iterative", "single_step", "minimal", "attack")]
    for tried in shown:
        found = np.flatnonzero((tried.arrays["status"] == FOUND) & (g.clean_wrong[: len(tried.arrays["status"])] < 0.5))
        after = calibration.softmax(tried.arrays["logits"])
        for i in sorted(found.tolist(), key=lambda row: (times[row], row))[:2]:
            times[i] += 1
            attacked = tried.attacked(i, store)
            label, now = (int(calibration.decided(p[i : i + 1], g.threshold)[0]) for p in (before, after))
            rows.append(
                Example(
                    index=len(rows),
                    variant=g.variant.name,
                    attack=str(registry.brief("attacks", parse(tried.trial.attack))),
                    threat=tried.trial.threat,
                    true=scene.test.classes[int(scene.test.y[i])],
                    before=scene.test.classes[label],
                    before_confidence=float(before[i, label]),
                    after=scene.test.classes[now],
                    after_confidence=float(after[i, now]),
                    size=float(tried.arrays["size"][i]),
                    cells=_cells(scene, i, attacked),
                )
            )
            images.append((scene.test.x[i], attacked))
    if not images:
        return (), {}
    return tuple(rows), {"original": np.stack([a for a, _ in images]), "attacked": np.stack([b for _, b in images])}


def _cells(scene: Scene, row: int, attacked: Array) -> tuple[Cell, ...]:
    """What an attack changed in a row of a table; nothing of an image."""
    table = scene.test.table
    return () if table is None else tuple(Cell(*cell) for cell in changed_cells(table, scene.test.x[row], attacked))


def _model(plan: Plan, facts: Facts, g: Gathered, scene: Scene) -> dict[str, Any]:
    return {
        "name": plan.model,
        "weights": plan.weights,
        "fingerprint": facts.model,
        "shape": list(facts.shape),
        "classes": len(facts.classes),
        "bounds": list(scene.test.bounds),
        "normalize": plan.normalize,
        "threshold": plan.threshold,
        "stochastic": g.stochastic,
        "trusted": plan.trust_model,
    }


def _data(scene: Scene, facts: Facts) -> Data:
    splits = (("test", scene.test), ("train", scene.splits.train), ("calibration", scene.splits.calibration))
    hashes = {"test": facts.test, "train": facts.train, "calibration": facts.calibration}
    test = scene.test
    return Data(
        name=test.name,
        shape=tuple(test.x.shape[1:]),
        classes=test.classes,
        bounds=test.bounds,
        grid=test.grid,
        splits=tuple(
            SplitInfo(
                name,
                len(split),
                {label: int(np.sum(split.y == i)) for i, label in enumerate(split.classes)},
                hashes[name] or "",
            )
            for name, split in splits
            if split is not None
        ),
        notes=test.notes,
        columns=tuple(
            Column(f.name, f.group, f.low, f.high, f.std, f.step, f.immutable, f.direction) for f in test.table.features
        )
        if test.table
        else (),
    )


def _not_done(gathered: tuple[Gathered, ...]) -> tuple[str, ...]:
    """What the plan asked for and no outcome shows."""
    lines = []
    for g in gathered:
        if g.clean is None:
            lines.append(f"{g.variant.name}: not finished")
        if None in g.corrupted:
            lines.append(f"{g.variant.name}: corruptions not finished")
        if None in g.certified:
            lines.append(f"{g.variant.name}: its certificate is not finished")
        missing = [t.trial.attack for t in g.tried if t.missing]
        if missing:
            lines.append(f"{g.variant.name}: {len(missing)} attacks not finished, {missing[0]} among them")
    return tuple(lines)
